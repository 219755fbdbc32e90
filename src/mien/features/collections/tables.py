"""Tables of the Collections job. `metadata` columns are called `facts` in Python, because the
declarative base keeps that name for itself."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from mien.backends.sql.base import TenantTable


class CollectionRow(TenantTable):
    """A gallery of one tenant, bound to one space.

    `change_head` is the number of its newest change; it moves under this row's lock only, so that
    no reader of the changes can skip a late commit. Changes up to `change_tail` have been pruned.
    `threshold_*` is what `threshold_move` last recorded.
    """

    __tablename__ = "collection"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        UniqueConstraint("tenant_id", "name", name="uq_collection_name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(Text, default="")
    facts: Mapped[dict[str, Any]] = mapped_column("metadata", JSON, default=dict)
    policy: Mapped[dict[str, float]] = mapped_column(JSON)
    space_model: Mapped[str] = mapped_column(String(128))
    space_recipe: Mapped[int] = mapped_column(Integer)
    space_alignment: Mapped[str] = mapped_column(String(64))
    space_dim: Mapped[int] = mapped_column(Integer)
    change_head: Mapped[int] = mapped_column(BigInteger, default=0)
    change_tail: Mapped[int] = mapped_column(BigInteger, default=0)
    face_count: Mapped[int] = mapped_column(BigInteger, default=0)
    threshold_score: Mapped[float] = mapped_column(Float)
    threshold_gallery: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


def _of_collection() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant_id", "collection_id"], ["collection.tenant_id", "collection.id"], ondelete="CASCADE"
    )


class PersonRow(TenantTable):
    """An identity in a collection; `kind` is a free word (staff, customer, user, unknown)."""

    __tablename__ = "person"
    __table_args__ = (
        _of_collection(),
        UniqueConstraint("tenant_id", "collection_id", "external_id", name="uq_person_external_id"),
        Index("ix_person_collection", "tenant_id", "collection_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text, default="")
    kind: Mapped[str] = mapped_column(String(64), default="")
    external_id: Mapped[str | None] = mapped_column(String(512))
    facts: Mapped[dict[str, Any]] = mapped_column("metadata", JSON, default=dict)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class FaceRow(TenantTable):
    """One face kept in a collection. `label` is the number of the change that added it.

    Boxes are px of the oriented photo, whose size is kept so that relative boxes can be told.
    `embedding` is float32, little-endian, of unit length; it comes last so that SQLite reads the
    other columns without it.
    """

    __tablename__ = "face"
    __table_args__ = (
        _of_collection(),
        ForeignKeyConstraint(["tenant_id", "person_id"], ["person.tenant_id", "person.id"]),
        UniqueConstraint("tenant_id", "collection_id", "label", name="uq_face_label"),
        Index("ix_face_external", "tenant_id", "collection_id", "external_image_id"),
        Index("ix_face_person", "tenant_id", "collection_id", "person_id"),
        Index("ix_face_image", "tenant_id", "collection_id", "image_sha256"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID]
    label: Mapped[int] = mapped_column(BigInteger)
    person_id: Mapped[UUID | None]
    external_image_id: Mapped[str | None] = mapped_column(String(512))
    image_sha256: Mapped[str] = mapped_column(String(64))
    image_width: Mapped[int] = mapped_column(Integer)
    image_height: Mapped[int] = mapped_column(Integer)
    box: Mapped[list[float]] = mapped_column(JSON)
    landmarks: Mapped[list[list[float]]] = mapped_column(JSON)
    confidence: Mapped[float] = mapped_column(Float)
    quality_score: Mapped[float | None] = mapped_column(Float)
    quality: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    attributes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    facts: Mapped[dict[str, Any]] = mapped_column("metadata", JSON, default=dict)
    space_key: Mapped[str] = mapped_column(String(255))
    runtime: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]
    embedding: Mapped[bytes] = mapped_column(LargeBinary)


class ChangeRow(TenantTable):
    """One numbered change of a collection: the add of the face `label`, or its tombstone.

    An add holds no vector: it lies in the face's row, so that a deleted face leaves no biometric
    data behind. An add whose face has gone is applied as nothing; its tombstone follows.
    """

    __tablename__ = "vector_change"
    __table_args__ = (_of_collection(),)

    collection_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    label: Mapped[int] = mapped_column(BigInteger)
    added: Mapped[bool] = mapped_column(Boolean)


class ThresholdMoveRow(TenantTable):
    """A move of a collection's own threshold, and what caused it ("created", "faces_added",
    "faces_removed", "policy_changed", "calibration_changed")."""

    __tablename__ = "threshold_move"
    __table_args__ = (
        _of_collection(),
        Index("ix_threshold_move_collection", "tenant_id", "collection_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID]
    cause: Mapped[str] = mapped_column(String(64))
    policy: Mapped[dict[str, float]] = mapped_column(JSON)
    score: Mapped[float] = mapped_column(Float)
    fmr: Mapped[float | None] = mapped_column(Float)
    fpir: Mapped[float | None] = mapped_column(Float)
    fnmr: Mapped[float | None] = mapped_column(Float)
    gallery_size: Mapped[int] = mapped_column(BigInteger)
    face_count: Mapped[int] = mapped_column(BigInteger)
    extrapolated: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime]
