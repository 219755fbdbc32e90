"""Models for a running Mien: which pack is in use, and fetching what is missing.

The recognition pack comes first and is waited for; packs of attributes come behind, in a thread of
their own, and a request that needs one meanwhile is told so (503 with Retry-After).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, assert_never

import structlog

from mien.kit.errors import MienError, ModelError, Unavailable
from mien.runtime.chosen import read_chosen
from mien.runtime.settings import Settings
from mien.vision.values import Analysis, AnalyzeRequest

if TYPE_CHECKING:
    from mien.vision.analyzer import Analyzer
    from mien.vision.models.packs import Pack, RecognitionPack
    from mien.vision.models.sources import Progress as PullProgress
    from mien.vision.models.spec import Licence
    from mien.vision.models.store import ModelStore

log = structlog.get_logger("mien.models")

_RETRY_S = 30.0
_MEGA = 1_000_000


def model_store(settings: Settings, accepted: Iterable[str] = ()) -> ModelStore:
    """The store that the settings name; `accepted` are further licences, accepted for this command."""
    from mien.vision.models.store import ModelStore

    accept = settings.accept_licences | frozenset(accepted)
    return ModelStore(settings.models_dir, accept_licences=accept, offline=settings.offline)


def refused_licence(store: ModelStore, pack: Pack) -> Licence | None:
    """A licence of the pack's models that needs the operator's word and has it not."""
    for name in pack.models:
        licence = store.spec(name).licence
        if not licence.commercial and licence.id not in store.accept_licences:
            return licence
    return None


def require_pack(store: ModelStore, pack: Pack, *, offline: bool) -> None:
    """ModelError saying what to do, unless the pack may be used here and its models are ready.

    The licence is looked at even if the files are there: a copied folder is no acceptance.
    """
    licence = refused_licence(store, pack)
    if licence is not None:
        raise ModelError(
            f"The pack {pack.name} is not for commercial use: {licence.id} ({licence.holder}). If your use"
            f" is allowed, accept it by name: MIEN_ACCEPT_LICENCES={licence.id}.",
            pack=pack.name,
            licence=licence.id,
        )
    for name in pack.models:
        check = store.check(name)
        if check.state != "ready":
            raise ModelError(_advice(name, check.state, pack, offline=offline), model=name, pack=pack.name)


def _advice(model: str, state: str, pack: Pack, *, offline: bool) -> str:
    fact = f"The model {model} of the pack {pack.name} is {state}"
    if offline:
        return (
            f"{fact}, and nothing is fetched as MIEN_OFFLINE is set: bring it with `mien models import FILE`"
            f" (`mien models export FILE {pack.name}` writes that file on another machine)."
        )
    return f"{fact}; `mien models pull {pack.name}` fetches it."


def pack_in_use(settings: Settings) -> RecognitionPack:
    """The recognition pack: the setting, else what `mien models use` chose, else the default.

    NotFound for a name that is no recognition pack.
    """
    from mien.vision.models.packs import default_pack, recognition_pack

    name = settings.pack or read_chosen(settings.data_dir)
    return recognition_pack(name) if name else default_pack()


def pack_states(settings: Settings) -> dict[str, str]:
    """For people: each pack that matters here, "ready" or what it lacks (models, a licence's acceptance)."""
    from mien.vision.models.packs import attribute_packs

    store = model_store(settings)
    states = {}
    packs: list[Pack] = [pack_in_use(settings), *attribute_packs()]
    for pack in packs:
        missing = store.missing(pack.models)
        states[pack.name] = f"missing {', '.join(missing)}" if missing else "ready"
        if licence := refused_licence(store, pack):
            states[pack.name] = f"not used: the licence {licence.id} is not accepted"
    return states


class PullReport:
    """Turns the store's reports into lines of a progress display; each subject is shown once."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._said: set[tuple[str, str]] = set()

    def __call__(self, progress: PullProgress) -> None:
        step = (progress.stage, progress.subject)
        if step in self._said:
            return
        self._said.add(step)
        match progress.stage:
            case "fetch":
                size = f" ({progress.total_bytes / _MEGA:.1f} MB)" if progress.total_bytes else ""
                self._line(f"fetching {progress.subject}{size}")
            case "convert":
                self._line(f"converting {progress.subject}")
            case "prove":
                self._line(f"proving {progress.subject} against its reference numbers")
            case "ready":
                self._line(f"{progress.subject} is ready")
            case unknown:
                assert_never(unknown)


class _Watched:
    """The analyzer, with errors of models that are just being fetched told as what they are."""

    def __init__(
        self, analyzer: Analyzer, pending: Mapping[str, str], store: ModelStore, *, offline: bool
    ) -> None:
        self._analyzer = analyzer
        self._pending = pending
        self._store = store
        self._offline = offline

    def analyze(self, data: bytes, request: AnalyzeRequest) -> Analysis:
        try:
            return self._analyzer.analyze(data, request)
        except ModelError as error:
            raise self._told(error) from error

    def _told(self, error: ModelError) -> MienError:
        from mien.vision.models.packs import attribute_packs

        said = told(error, self._pending)
        if said is error:
            for pack in attribute_packs():
                if error.facts.get("model") in pack.models:
                    try:
                        require_pack(self._store, pack, offline=self._offline)
                    except ModelError as advised:
                        return advised
        return said


def told(error: ModelError, pending: Mapping[str, str]) -> MienError:
    """A missing model's error; Unavailable with Retry-After while it is being fetched."""
    model = error.facts.get("model")
    if isinstance(model, str) and model in pending:
        return Unavailable(
            f"The model {model} is being fetched; ask again in half a minute.",
            retry_after_s=_RETRY_S,
            model=model,
        )
    return error


class Fetching:
    """What is fetched and loaded behind a running process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = model_store(settings)
        self._pack = pack_in_use(settings)
        self._cancelled = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # Models being fetched, and what went wrong with those that could not be.
        self._pending: dict[str, str] = {}
        self._failed = ""

    def open_analyzer(self) -> _Watched:
        """Load the recognition pack (slow: call it in a thread). Raises ModelError, Unavailable."""
        from mien.vision.decode import DecodeLimits
        from mien.vision.runtimes.base import RuntimeChoice
        from mien.vision.suite import open_analyzer

        settings = self._settings
        choice = RuntimeChoice(
            name=settings.runtime,
            threads=settings.pipelines.model_threads,
            parallel=settings.pipeline_threads,
        )
        limits = DecodeLimits(
            max_bytes=int(settings.limits.photo_mb * _MEGA),
            max_pixels=int(settings.limits.photo_megapixels * _MEGA),
        )
        try:
            require_pack(self._store, self._pack, offline=settings.offline)
            analyzer = open_analyzer(self._store, self._pack, choice=choice, limits=limits)
        except ModelError as error:
            raise told(error, self._pending) from error
        return _Watched(analyzer, self._pending, self._store, offline=settings.offline)

    def missing(self) -> dict[str, str]:
        """Why the recognition pack is not loaded."""
        if self._failed:
            return {"models": self._failed}
        absent = self._store.missing(self._pack.models)
        if not absent:
            return {"models": f"the pack {self._pack.name} is being loaded"}
        what = "being fetched" if set(absent) & self._pending.keys() else "missing; run `mien models pull`"
        return {"models": f"{', '.join(absent)}: {what}"}

    def begin(self, load: Callable[[], Awaitable[None]]) -> None:
        """Load the recognition pack, then fetch the packs behind it (as `settings.fetch` says)."""
        self._tasks.append(asyncio.create_task(self._load(load)))

    async def _load(self, load: Callable[[], Awaitable[None]]) -> None:
        try:
            await load()
        except MienError as error:
            self._failed = error.message
            log.error("the recognition pack is not loaded", reason=error.message)
        except Exception:
            self._failed = "the models could not be loaded; see the log"
            log.exception("the recognition pack is not loaded")
        if self._settings.fetch == "all" and not self._settings.offline:
            await self._fetch_behind()

    async def _fetch_behind(self) -> None:
        from mien.vision.models.packs import attribute_packs

        packs = attribute_packs()
        absent = await asyncio.to_thread(lambda: [self._store.missing(pack.models) for pack in packs])
        self._pending.update({name: "waiting" for names in absent for name in names})
        for pack, names in zip(packs, absent, strict=True):
            if not names or self._cancelled.is_set():
                continue
            log.info("fetching models behind", pack=pack.name, models=list(names))
            try:
                await asyncio.to_thread(self._pull, names)
            except MienError as error:
                # The next start tries again; until then a request for them is told what to do.
                log.warning("a pack could not be fetched", pack=pack.name, reason=error.message)
            except Exception:
                log.exception("a pack could not be fetched", pack=pack.name)
            finally:
                for name in names:
                    self._pending.pop(name, None)

    def _pull(self, names: tuple[str, ...]) -> None:
        self._store.pull(names, cancelled=self._cancelled)

    async def close(self) -> None:
        """Stop fetching; what is under way goes on at the next start."""
        self._cancelled.set()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)


def fetch_first(settings: Settings) -> None:
    """Before a server starts: fetch the recognition pack if it is missing, telling sizes and licences.

    A failure is told and does not stop the start: /readyz says what is missing.
    """
    from rich.console import Console

    store = model_store(settings)
    pack = pack_in_use(settings)
    missing = store.missing(pack.models)
    if not missing or settings.fetch == "none" or settings.offline or refused_licence(store, pack):
        return  # who opens the pack tells what it lacks
    console = Console(stderr=True, highlight=False)
    console.print(f"\n  The models of the pack [bold]{pack.name}[/bold] are fetched once:")
    for name in missing:
        spec = store.spec(name)
        licence = spec.licence
        console.print(
            f"    {name:<16} {spec.size_bytes / _MEGA:6.1f} MB  {licence.id}, {licence.holder}", markup=False
        )
    try:
        pull_with_bar(store, missing, console)
    except MienError as error:
        console.print(f"  [red]{error.message}[/red]")
        console.print("  Starting without them; `mien models pull` tries again.")


def pull_with_bar(store: ModelStore, names: tuple[str, ...], console: object) -> None:
    """Pull with a progress bar on a terminal, or one line a step elsewhere. Raises ModelError."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    assert isinstance(console, Console)
    if not console.is_terminal:
        store.pull(names, PullReport(lambda text: console.print(f"    {text}", markup=False)))
        return
    columns = (TextColumn("    {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}
        said = PullReport(lambda text: bar.console.print(f"    {text}", markup=False))

        def report(progress: PullProgress) -> None:
            if progress.stage != "fetch":
                said(progress)
                return
            task = tasks.get(progress.subject)
            if task is None:
                task = tasks[progress.subject] = bar.add_task(progress.subject, total=progress.total_bytes)
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)

        store.pull(names, report)
