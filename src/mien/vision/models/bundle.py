"""Bundles: proven models in one file, for machines without pip, npm or a way out.

A bundle is a plain tar: `bundle.json` first (format, and the manifest of each model), then
`models/NAME/KEY/model.onnx` in that order. It is not trusted: import takes only models that this
version of Mien knows, in their own places, with the digests listed, and proves each anew.
"""

import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mien.kit.errors import ModelError
from mien.vision.models.locks import locked
from mien.vision.models.sources import digest
from mien.vision.models.store import Manifest, ModelStore

FORMAT = 1
_MAX_INDEX_BYTES = 1 << 20
_MAX_MODEL_BYTES = 1 << 30
_MAX_MODELS = 100

Tell = Callable[[str], None]
"""Called with the name of each model when it is done."""


@dataclass(frozen=True, slots=True)
class Bundled:
    """One model of a bundle; `done` is False for one that was ready before."""

    name: str
    size_bytes: int
    done: bool


def _entry(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644  # no times, no owners: equal models make equal bundles
    return info


def _member(manifest: Manifest) -> str:
    return f"models/{manifest.name}/{manifest.key}/model.onnx"


def export_bundle(
    store: ModelStore, names: Sequence[str], target: Path, tell: Tell | None = None
) -> list[Bundled]:
    """Write the models into `target` (temporary file beside it, fsync, rename), digests checked first.

    Raises ModelError if one is missing or damaged or `target` can't be written.
    """
    manifests = []
    for name in dict.fromkeys(names):
        store.path(name)
        manifests.append(store.manifest(name))
    index = json.dumps({"format": FORMAT, "models": [asdict(m) for m in manifests]}, indent=1).encode()
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                tar.addfile(_entry("bundle.json", len(index)), io.BytesIO(index))
                for manifest in manifests:
                    path = store.folder(store.spec(manifest.name)) / "model.onnx"
                    with path.open("rb") as stream:
                        tar.addfile(_entry(_member(manifest), manifest.size_bytes), stream)
                    if tell:
                        tell(manifest.name)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, target)
    except OSError as error:
        raise ModelError(f"The bundle {target.name} can't be written ({error.strerror}).") from error
    finally:
        part.unlink(missing_ok=True)
    return [Bundled(m.name, m.size_bytes, True) for m in manifests]


def import_bundle(store: ModelStore, source: Path, tell: Tell | None = None) -> list[Bundled]:
    """Take every model of a bundle into the store; each is checked, proven and stored on its own.

    Raises ModelError for anything that is not as it should be (a model that this version doesn't
    know, a licence that was not accepted, a wrong digest, a failed proof, a member that is not
    listed, a link, a path); the models before it are kept, as they are proven.
    """
    try:
        with source.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            members = iter(tar)
            manifests = _index(tar, next(members, None), store)
            done = []
            for manifest in manifests:
                entry = next(members, None)
                if entry is None or entry.name != _member(manifest) or not entry.isfile():
                    raise ModelError(f"The bundle does not hold {manifest.name} where its index says.")
                done.append(_take(store, manifest, tar, entry))
                if tell:
                    tell(manifest.name)
            if next(members, None) is not None:
                raise ModelError("The bundle holds more than its index says.")
            return done
    except (tarfile.TarError, EOFError) as error:
        raise ModelError(f"{source.name} is no bundle, or a damaged one ({error}).") from error
    except OSError as error:
        raise ModelError(f"The bundle {source.name} can't be read ({error.strerror}).") from error


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(entry)
    data = stream.read(entry.size) if stream else b""
    if len(data) != entry.size:
        raise ModelError("The bundle is cut off.")
    return data


def _index(tar: tarfile.TarFile, entry: tarfile.TarInfo | None, store: ModelStore) -> list[Manifest]:
    """The manifests, each of a model that this store knows in this very version."""
    if entry is None or entry.name != "bundle.json" or not entry.isfile() or entry.size > _MAX_INDEX_BYTES:
        raise ModelError("This is no bundle of `mien models export`.")
    try:
        index = json.loads(_read(tar, entry))
        kind, rows = index["format"], index["models"]
    except (ValueError, KeyError, TypeError):
        raise ModelError("The bundle's index can't be read.") from None
    if kind != FORMAT:
        raise ModelError(f"The bundle has format {kind}; this version of Mien reads format {FORMAT}.")
    if not isinstance(rows, list) or len(rows) > _MAX_MODELS:
        raise ModelError("The bundle's index can't be read.")
    manifests = [Manifest.read(json.dumps(row).encode()) for row in rows]
    for manifest in manifests:
        spec = store.catalog.get(manifest.name)
        if spec is None or spec.key != manifest.key:
            raise ModelError(
                f"The bundle's {manifest.name!r} is not the version that this Mien uses;"
                " export it with the same version of Mien."
            )
        store.require_licence(spec)
    return manifests


def _take(store: ModelStore, manifest: Manifest, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Bundled:
    spec = store.spec(manifest.name)
    if entry.size != manifest.size_bytes or entry.size > _MAX_MODEL_BYTES:
        raise ModelError(f"The bundle's {spec.name} has another size than its index says.")
    data = _read(tar, entry)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise ModelError(f"The bundle's {spec.name} has a wrong digest; the file is damaged.")
    with locked(store.root / spec.name / ".lock", spec.name, wait_s=600):
        if store.check(spec.name, afresh=True).state == "ready":
            return Bundled(spec.name, entry.size, False)
        store.install(spec, data)
    return Bundled(spec.name, entry.size, True)


def bundle_digest(path: Path) -> str:
    """SHA-256 of a bundle, to compare on the other machine."""
    return digest(path)
