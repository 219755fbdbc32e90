"""What goes over the wire, for requests: checked here by type, in the services by meaning.

Members of a form arrive as texts, so that whatever is no plain text may also be given as JSON text.
"""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

from mien.features.collections.checks import QUALITY_LEVELS
from mien.features.collections.records import Filters, IndexRequest, SearchRequest
from mien.kit.errors import BadInput
from mien.vision.calibration import MatchPolicy


def _from_text(value: Any) -> Any:
    """JSON given as text, as forms do."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("must be JSON") from None
    return value


def _words(value: Any) -> Any:
    """`a,b` or `["a","b"]` as a list."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return _from_text(value)
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


Attribute = Literal["quality", "pose", "liveness", "eyes", "emotion", "objects"]
Metadata = Annotated[dict[str, Any], BeforeValidator(_from_text)]
Level = Literal["none", "low", "medium", "high"]


class Body(BaseModel):
    """Base of all requests: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class PolicyBody(Body):
    """When two faces count as one person: exactly one of the four."""

    score: float | None = Field(None, description="Cosine similarity, -1..1; higher is closer.")
    distance: float | None = Field(None, description="Euclidean distance of unit vectors, 0..2.")
    fmr: float | None = Field(None, description="False match rate of one comparison, 0..1.")
    fpir: float | None = Field(
        None, description="Rate at which a search over the collection names a stranger, 0..1."
    )

    def to_policy(self) -> MatchPolicy:
        """BadInput unless exactly one is given, within its range."""
        given = self.model_dump(exclude_none=True)
        if not given:
            raise BadInput("Give one of score, distance, fmr and fpir.", field="policy")
        return MatchPolicy(**given)


Policy = Annotated[PolicyBody, BeforeValidator(_from_text)]


def to_policy(policy: PolicyBody | None) -> MatchPolicy | None:
    """None where none is given."""
    return None if policy is None else policy.to_policy()


class PhotoOptions(Body):
    """How to look for faces in a photo."""

    max_faces: int = Field(100, ge=1, le=1000, description="Keep the largest.")
    min_confidence: float = Field(0.6, ge=0, le=1, description="The detector's score that a face needs.")
    thorough: bool = Field(False, description="Also look for tiny faces in big photos (slower).")


class DetectOptions(PhotoOptions):
    """What to tell about the faces of a photo."""

    attributes: Annotated[list[Attribute], BeforeValidator(_words)] = Field(
        default=["quality"], description="A list, or in a form words with commas between them."
    )
    timings: bool = Field(False, description="Tell how long each stage took, in milliseconds.")


class QualityOptions(PhotoOptions):
    """Options with a floor for quality."""

    quality_filter: Level | None = Field(
        None, description="A word for `min_quality`: none 0, low 0.3, medium 0.5, high 0.8."
    )
    min_quality: float | None = Field(None, ge=0, le=1, description="Overall quality that a face needs.")

    @property
    def quality_floor(self) -> float:
        """The stricter one of both."""
        return max(self.min_quality or 0.0, QUALITY_LEVELS[self.quality_filter or "none"])


class CompareOptions(QualityOptions):
    """How to compare the faces of two photos."""

    policy: Policy | None = Field(
        None, description="score, distance or fmr; by default an FMR of 0.1 % per comparison."
    )


class IndexOptions(QualityOptions):
    """How to store the faces of a photo."""

    external_image_id: str | None = Field(None, max_length=512, description="Your own id for the photo.")
    person_id: UUID | None = Field(None, description="Give all faces of the photo to this person.")
    metadata: Metadata = Field(default={}, description="A JSON object kept with each face (16 KiB).")
    attributes: Annotated[
        list[Literal["quality", "pose", "liveness", "eyes", "emotion"]], BeforeValidator(_words)
    ] = Field(default=["quality"], description="What to find out and keep beside the embedding.")

    def to_request(self) -> IndexRequest:
        return IndexRequest(
            external_image_id=self.external_image_id,
            person_id=self.person_id,
            facts=self.metadata,
            max_faces=self.max_faces,
            min_quality=self.quality_floor,
            min_confidence=self.min_confidence,
            attributes=frozenset(self.attributes),
            thorough=self.thorough,
        )


class FiltersBody(Body):
    """Which stored faces may be found; all that is given must hold."""

    external_image_ids: list[str] = Field(default=[], max_length=1000)
    person_ids: list[UUID] = Field(default=[], max_length=1000)
    metadata: dict[str, str | int | float | bool] = Field(
        default={}, description="These members of the face's metadata are equal (10 at most)."
    )


class SearchOptions(QualityOptions):
    """What to search for, if not a photo, and how."""

    face_id: UUID | None = Field(None, description="Search with this stored face.")
    embedding: Annotated[list[Annotated[float, Strict()]] | None, BeforeValidator(_from_text)] = Field(
        None, max_length=8192, description="Search with this embedding; `space` must be given, too."
    )
    space: str | None = Field(None, max_length=255, description="The space of `embedding`.")
    max_matches: int = Field(10, ge=1, le=1000, description="Matches per face of the photo.")
    policy: Policy | None = Field(None, description="By default the collection's own.")
    filters: Annotated[FiltersBody, BeforeValidator(_from_text)] = Field(default_factory=FiltersBody)

    def to_request(self) -> SearchRequest:
        return SearchRequest(
            max_matches=self.max_matches,
            policy=to_policy(self.policy),
            filters=Filters(
                tuple(self.filters.external_image_ids),
                tuple(self.filters.person_ids),
                self.filters.metadata,
            ),
            min_quality=self.quality_floor,
            min_confidence=self.min_confidence,
            max_faces=self.max_faces,
            thorough=self.thorough,
        )


class PersonSearchOptions(QualityOptions):
    """How to search for persons."""

    face_id: UUID | None = Field(None, description="Search with this stored face.")
    max_matches: int = Field(10, ge=1, le=100, description="Persons per face of the photo.")
    policy: Policy | None = Field(None, description="By default the collection's own.")
    sort: Literal["best", "mean"] = Field("best", description="Rank by the best score or by the mean.")

    def to_request(self) -> SearchRequest:
        return SearchRequest(
            max_matches=self.max_matches,
            policy=to_policy(self.policy),
            min_quality=self.quality_floor,
            min_confidence=self.min_confidence,
            max_faces=self.max_faces,
            thorough=self.thorough,
        )


class ImportOptions(IndexOptions):
    """How to import an archive or a folder; the external id of each face is its photo's path in it."""

    external_image_id: None = Field(None, exclude=True)
    folder: str | None = Field(
        None, max_length=4096, description="A folder of the server, below one that its operator allows."
    )
    persons: Literal["none", "by_folder"] = Field(
        "none", description="by_folder: each photo's folder is the external id and name of its person."
    )


class CreateCollection(Body):
    """A new collection."""

    name: str = Field(description="1 to 255 characters of A-Z, a-z, 0-9, '_', '.', '-'.")
    description: str = ""
    metadata: dict[str, Any] = Field(default={}, description="A JSON object of yours (16 KiB).")
    policy: PolicyBody | None = Field(None, description="By default an FPIR of at most 1 %.")


class UpdateCollection(Body):
    """Changes of a collection; what is left out stays."""

    description: str | None = None
    metadata: dict[str, Any] | None = None
    policy: PolicyBody | None = None


class CreatePerson(Body):
    """A new person."""

    name: str = ""
    kind: str = Field("", max_length=64, description="A word of yours, such as staff or customer.")
    external_id: str | None = Field(
        None, max_length=512, description="Your own id; unique in the collection."
    )
    metadata: dict[str, Any] = {}


class UpdatePerson(Body):
    """Changes of a person; what is left out stays."""

    name: str | None = None
    kind: str | None = Field(None, max_length=64)
    external_id: str | None = Field(None, max_length=512)
    metadata: dict[str, Any] | None = None


class FaceIds(Body):
    """Up to 1000 faces."""

    face_ids: list[UUID] = Field(min_length=1, max_length=1000)
