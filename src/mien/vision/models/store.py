"""The model store: a folder of proven models, and how they get there.

`<root>/<name>/<key>/model.onnx` with `manifest.json` beside it, put there by one rename of a folder
whose files are on disk: a reader sees a whole model or none. `key` names sources and conversion, so
a new version of Mien with another conversion does not meet an old file.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mien.kit.errors import MienError, ModelError, NotFound
from mien.vision.models.catalog import CATALOG
from mien.vision.models.locks import locked
from mien.vision.models.prove import Proof, load_proof, prove
from mien.vision.models.sources import Fetcher, Limits, Progress, Report, digest
from mien.vision.models.spec import ModelSpec, Source, SourceFile

State = Literal["ready", "missing", "damaged"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a stored model is: kept beside it, checked before it is used."""

    name: str
    key: str
    sha256: str
    size_bytes: int
    licence: str
    reference: str
    deviation: float
    made_at: str

    @classmethod
    def read(cls, data: bytes) -> "Manifest":
        """ModelError if it is no manifest."""
        try:
            manifest = cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise ModelError("A model's manifest can't be read.") from error
        if not all(isinstance(v, str) for v in (manifest.name, manifest.key, manifest.sha256)):
            raise ModelError("A model's manifest can't be read.")
        return manifest

    def written(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one model; `reason` says what is wrong, `deviation` what its proof measured."""

    spec: ModelSpec
    state: State
    reason: str = ""
    size_bytes: int = 0
    deviation: float | None = None


def _quiet(_: Progress) -> None:
    return


class ModelStore:
    """Models under `root`. Threads and processes may share one; it holds no open files."""

    def __init__(
        self,
        root: Path,
        *,
        accept_licences: frozenset[str] = frozenset(),
        offline: bool = False,
        catalog: Mapping[str, ModelSpec] = CATALOG,
        proofs: Callable[[str], Proof] = load_proof,
        limits: Limits | None = None,
    ) -> None:
        self.root = root
        self.accept_licences = accept_licences
        self.catalog = catalog
        self._proofs = proofs
        self._limits = limits or Limits()
        self._fetcher = Fetcher(root, offline, self._limits)
        self._trusted: dict[Path, tuple[int, int]] = {}

    def spec(self, name: str) -> ModelSpec:
        """NotFound with the known names if there is no such model."""
        try:
            return self.catalog[name]
        except KeyError:
            known = ", ".join(sorted(self.catalog))
            raise NotFound(f"There is no model named {name!r}. Known: {known}.") from None

    def folder(self, spec: ModelSpec) -> Path:
        return self.root / spec.name / spec.key

    def path(self, name: str) -> Path:
        """The ready ONNX file, its digest checked (again whenever the file has changed).

        ModelError saying what to do if it is missing or damaged.
        """
        check = self.check(name)
        if check.state != "ready":
            raise ModelError(
                f"The model {name} is {check.state}{f' ({check.reason})' if check.reason else ''};"
                f" `mien models pull {name}` fetches it.",
                model=name,
            )
        return self.folder(check.spec) / "model.onnx"

    def ready(self, name: str) -> bool:
        return self.check(name).state == "ready"

    def manifest(self, name: str) -> Manifest:
        """ModelError if the model is not stored."""
        try:
            return Manifest.read((self.folder(self.spec(name)) / "manifest.json").read_bytes())
        except OSError:
            raise ModelError(f"The model {name} is missing; `mien models pull {name}` fetches it.") from None

    def check(self, name: str, *, afresh: bool = False, proven: bool = False) -> Check:
        """Whether the model is there and whole: `afresh` reads it even if it was checked before,
        `proven` runs its numerical proof too."""
        spec = self.spec(name)
        path = self.folder(spec) / "model.onnx"
        try:
            manifest = Manifest.read((path.parent / "manifest.json").read_bytes())
            stat = path.stat()
        except FileNotFoundError:
            return Check(spec, "missing")
        except (OSError, ModelError):
            return Check(spec, "damaged", "its manifest can't be read")
        if (manifest.name, manifest.key) != (spec.name, spec.key):
            return Check(spec, "damaged", "its manifest belongs to another model")
        seen = (stat.st_mtime_ns, stat.st_size)
        if afresh or self._trusted.get(path) != seen:
            if stat.st_size != manifest.size_bytes or digest(path) != manifest.sha256:
                self._trusted.pop(path, None)
                return Check(spec, "damaged", "its digest is wrong", stat.st_size)
            self._trusted[path] = seen
        found = None
        if proven:
            try:
                found = prove(spec, self._proofs(name), path)
            except MienError as error:
                return Check(spec, "damaged", error.message, stat.st_size)
        return Check(spec, "ready", size_bytes=stat.st_size, deviation=found)

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those that a pull would have to make, in the order given, each once."""
        return tuple(dict.fromkeys(n for n in names if not self.ready(n)))

    def require_licence(self, spec: ModelSpec) -> None:
        """ModelError unless the licence allows commercial use or the operator accepted it by name."""
        licence = spec.licence
        if not licence.commercial and licence.id not in self.accept_licences:
            raise ModelError(
                f"{spec.name} is not for commercial use: {licence.id} ({licence.holder})."
                f" If your use is allowed, accept it by name: --accept-licence {licence.id}"
                f" or MIEN_ACCEPT_LICENCES={licence.id}.",
                model=spec.name,
                licence=licence.id,
            )

    def pull(
        self,
        names: Sequence[str],
        progress: Report | None = None,
        *,
        given: Mapping[str, Sequence[Source]] | None = None,
        cancelled: threading.Event | None = None,
    ) -> tuple[str, ...]:
        """Fetch, convert, prove and store the models that are not ready; the names of those made.

        `given` are an operator's own sources for a model, taken instead of the spec's. Every model is
        stored as soon as it is done, so an interrupted pull goes on where it was. Raises ModelError
        (licence, no source, wrong digest, failed proof), SetupError if the extra is not installed;
        nothing of a failed model is stored.
        """
        report = progress or _quiet
        specs = [self.spec(name) for name in dict.fromkeys(names)]
        for spec in specs:
            if not self.ready(spec.name):
                self.require_licence(spec)
        made = []
        for spec in specs:
            if self._pull_one(spec, report, (given or {}).get(spec.name, ()), cancelled):
                made.append(spec.name)
            report(Progress("ready", spec.name))
        return tuple(made)

    def _pull_one(
        self, spec: ModelSpec, report: Report, given: Sequence[Source], cancelled: threading.Event | None
    ) -> bool:
        if self.check(spec.name, afresh=True).state == "ready":
            return False
        lock = self.root / spec.name / ".lock"
        with locked(lock, spec.name, wait_s=self._limits.lock_s, cancelled=cancelled):
            if self.check(spec.name, afresh=True).state == "ready":
                return False
            # The only import of conversion: onnx and h5py are wanted by a pull alone.
            from mien.vision.models.convert import convert, require_pull_extra

            require_pull_extra()
            siblings = self._wanted_files()
            files = {
                file.name: self._fetcher.obtain(
                    spec.name, file, given or file.sources, siblings, report, cancelled
                )
                for file in spec.files
            }
            report(Progress("convert", spec.name))
            data = convert(spec, files)
            report(Progress("prove", spec.name))
            self.install(spec, data)
        for file in spec.files:
            self._fetcher.file(file.sha256).unlink(missing_ok=True)
        return True

    def _wanted_files(self) -> list[SourceFile]:
        """Files of all models that a later pull may want: an archive that holds some is fetched once."""
        return [
            file
            for spec in self.catalog.values()
            if spec.licence.commercial and not (self.folder(spec) / "manifest.json").exists()
            for file in spec.files
        ]

    def install(self, spec: ModelSpec, data: bytes) -> Manifest:
        """Prove a graph and put it in its place; ModelError (and nothing stored) if it fails.

        The caller holds the model's lock, or imports into a store of its own.
        """
        proof = self._proofs(spec.name)
        place = self.folder(spec)
        work = place.parent / f".new-{secrets.token_hex(4)}"
        work.mkdir(parents=True)
        try:
            _write(work / "model.onnx", data)
            found = prove(spec, proof, work / "model.onnx")
            manifest = Manifest(
                name=spec.name,
                key=spec.key,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                licence=spec.licence.id,
                reference=proof.reference,
                deviation=float(f"{found:.3g}"),
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            _write(work / "manifest.json", manifest.written())
            _sync_folder(work)
            if place.exists():  # a damaged one: it is not used, and must make room for the rename
                old = place.parent / f".old-{secrets.token_hex(4)}"
                os.rename(place, old)
                os.rename(work, place)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(work, place)
            _sync_folder(place.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return manifest


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
