"""Every setting of Mien, described once: the environment, the settings file and docs/settings.md follow.

A value comes, first wins, from: an argument of a command; `MIEN_<NAME>` (a section's field is
`MIEN_<SECTION>__<NAME>`); the TOML file named by `MIEN_CONFIG` (or `mien.toml` in the data folder).
Settings enter constructors in `container.build`; nothing else reads them from a global place.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mien.kit.errors import SetupError

PREFIX = "MIEN_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Backends(_Section):
    """Which adapter stands behind each port. The embedded ones need nothing else installed."""

    sql: Literal["sqlite"] = Field(default="sqlite", description="Where the rows are kept.")
    vectors: Literal["local"] = Field(default="local", description="Where embeddings are searched.")
    blobs: Literal["local"] = Field(default="local", description="Where files (imports, evidence) are kept.")
    queue: Literal["inline"] = Field(default="inline", description="Who runs the jobs.")
    bus: Literal["memory"] = Field(default="memory", description="Who carries live events.")
    pipelines: Literal["threads"] = Field(default="threads", description="Who runs the models.")


class PipelineSettings(_Section):
    """How much analysis runs at once, and how long work may wait for a place."""

    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Photos analysed at the same time; 0 means one for each CPU core.",
    )
    waiting: int = Field(
        default=64,
        ge=0,
        le=10_000,
        description="Photos that may wait for a free thread; one more is refused (503).",
    )
    wait_s: float = Field(
        default=20.0,
        gt=0,
        le=600,
        description="Longest time, in seconds, that a photo waits before it is refused.",
    )
    run_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Longest time, in seconds, that one photo may take (504 after it).",
    )
    cache_entries: int = Field(
        default=256, ge=0, description="Analyses kept by the photo's content hash; 0 turns the cache off."
    )
    cache_mb: int = Field(default=32, ge=0, description="Memory bound of that cache, in MB.")
    model_threads: int = Field(default=1, ge=1, le=64, description="CPU threads inside one model run.")


class Limits(_Section):
    """What one request may hold and take."""

    body_mb: float = Field(
        default=96.0,
        gt=0,
        le=4096,
        description="Largest request body, in MB (413 above it); two photos in base64 take 8/3 of one.",
    )
    photo_mb: float = Field(default=32.0, gt=0, le=1024, description="Largest photo file, in MB.")
    import_mb: float = Field(
        default=2048.0, gt=0, le=1_000_000, description="Largest body of an import (a zip of photos), in MB."
    )
    photo_megapixels: float = Field(
        default=64.0,
        gt=0,
        le=178,
        description="Largest photo, in millions of pixels; checked before decoding.",
    )
    request_s: float = Field(
        default=120.0, gt=0, le=3600, description="Longest time of one request, in seconds (504 after it)."
    )
    import_s: float = Field(
        default=1800.0, gt=0, le=86_400, description="Longest time of an upload to an import, in seconds."
    )
    connections: int = Field(
        default=512, ge=1, le=100_000, description="Requests in hand at once; 503 above it."
    )
    idempotency_hours: float = Field(
        default=24.0,
        gt=0,
        le=24 * 30,
        description="How long an answer is kept for its Idempotency-Key, in hours.",
    )


class JobSettings(_Section):
    """Background jobs (imports and the like)."""

    workers: int = Field(default=2, ge=1, le=64, description="Jobs that run at the same time.")
    sweep_s: float = Field(
        default=5.0, gt=0, le=3600, description="How often forgotten jobs are looked for, in seconds."
    )


class Settings(BaseSettings):
    """Settings of one Mien process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("mien", appauthor=False),
        description="The folder of the database, the index and the files. It has one owner process.",
    )
    models_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("mien", appauthor=False) / "models",
        description="The folder where pulled models are kept.",
    )
    pack: str | None = Field(
        default=None,
        description="The recognition pack of new collections; empty means what `mien models use` chose,"
        " else the default pack.",
    )
    accept_licences: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="Non-commercial licences that you accept, by name, separated by commas.",
    )
    import_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders of this machine that imports may read (absolute paths, separated by commas, with"
        " all below them); without one only archives are taken.",
    )
    offline: bool = Field(default=False, description="Never fetch a model; use only what is in `models_dir`.")
    fetch: Literal["all", "first", "none"] = Field(
        default="all",
        description="What `mien serve` fetches when models are missing: the recognition pack first and the"
        " others behind it, the recognition pack only, or nothing.",
    )
    runtime: Literal["auto", "onnxruntime", "openvino"] = Field(
        default="auto", description="What runs the models; auto takes the fastest one that is installed."
    )
    host: str = Field(default="127.0.0.1", description="The address that the server listens on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="The port to listen on; 0 picks a free one.")
    shutdown_s: float = Field(
        default=20.0,
        gt=0,
        le=600,
        description="How long a stopping server waits for requests in hand, in seconds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="JSON lines, or coloured text; auto means text on a terminal."
    )
    metrics_open: bool = Field(
        default=False,
        description="Serve /metrics without a key to everybody who reaches the port (it is always open over"
        " the socket and from this machine's loopback address).",
    )
    backends: Backends = Field(default_factory=Backends)
    pipelines: PipelineSettings = Field(default_factory=PipelineSettings)
    limits: Limits = Field(default_factory=Limits)
    jobs: JobSettings = Field(default_factory=JobSettings)

    @field_validator("accept_licences", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("import_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return tuple(p.strip() for p in value.split(",") if p.strip()) if isinstance(value, str) else value

    @field_validator("import_roots")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in value:
            if not path.is_absolute():
                raise ValueError(f"{path} is no absolute path")
        return value

    @field_validator("pack", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @property
    def db_path(self) -> Path:
        return self.data_dir / "mien.db"

    @property
    def pipeline_threads(self) -> int:
        """The number of analysing threads, with 0 resolved to this process's CPU cores."""
        return self.pipelines.threads or len(os.sched_getaffinity(0))


def _file_values(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"The settings file {path} can't be read ({type(error).__name__}).") from None
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"The settings file {path} is no valid TOML: {error}.") from None


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def get_settings(**arguments: Any) -> Settings:
    """The settings of this process; `arguments` (of a command; None is left out) win over all else.

    Raises SetupError naming every wrong setting and what it may be.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    try:
        first = Settings(**arguments)
        named = os.environ.get(PREFIX + "CONFIG")
        beside = first.data_dir / "mien.toml"
        path = Path(named).expanduser() if named else (beside if beside.is_file() else None)
        if path is None:
            return first
        # The environment wins over the file: only what it left unset is taken from there.
        given = first.model_dump(exclude_unset=True)
        return Settings(**_merge(_file_values(path), given))
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            section = "__".join(str(part).upper() for part in fault["loc"])
            lines.append(f"{PREFIX}{section}: {fault['msg']}")
        raise SetupError("A setting is wrong. " + "; ".join(lines)) from None


def unknown_variables() -> list[str]:
    """Variables that look like settings and are none (a typing error would else stay silent).

    They are only warned about: orchestrators put MIEN_SERVICE_HOST and the like into the environment.
    """
    known = {PREFIX + "CONFIG", PREFIX + "SHARED", PREFIX + "READY_FD"}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            known |= {f"{PREFIX}{name}__{inner}".upper() for inner in section.model_fields}
        known.add((PREFIX + name).upper())
    return sorted(n for n in os.environ if n.startswith(PREFIX) and n.upper() not in known)


def _shown(value: object) -> str:
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(map(str, value)))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true \\| false",
    str: "text",
    Path: "path",
}


def _kind(annotation: Any) -> str:
    args = getattr(annotation, "__args__", ())
    if args and all(isinstance(arg, str) for arg in args):
        return " \\| ".join(args)
    if annotation in _KINDS:
        return {int: "whole number", float: "number", bool: "true \\| false", str: "text", Path: "path"}[
            annotation
        ]
    return "list" if annotation in (frozenset[str], tuple[Path, ...]) else "text"


def settings_markdown() -> str:
    """docs/settings.md, made from the fields above."""
    defaults = {"data_dir": "`$XDG_DATA_HOME/mien`", "models_dir": "`$XDG_CACHE_HOME/mien/models`"}
    out = [
        "# Settings",
        "",
        "<!-- Made from src/mien/runtime/settings.py by `mien settings --markdown`; edit that file. -->",
        "",
        "A value is taken, first wins, from an option of the command, from the environment variable, from"
        " the TOML file that `MIEN_CONFIG` names (else `mien.toml` in the data folder; a section is a TOML"
        " table, a name is the field's).",
        "",
    ]
    head = ["| variable | values | default | what it does |", "|---|---|---|---|"]
    top = list(head)
    sections: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            sections += ["", f"## {name}", "", (section.__doc__ or "").strip(), "", *head]
            for inner, inner_field in section.model_fields.items():
                shown = _shown(inner_field.default)
                sections.append(
                    f"| `{PREFIX}{name.upper()}__{inner.upper()}` | {_kind(inner_field.annotation)} |"
                    f" {f'`{shown}`' if shown else ''} | {inner_field.description} |"
                )
            continue
        shown = _shown(field.default) if field.default_factory is None else ""
        default = defaults.get(name) or (f"`{shown}`" if shown else "")
        top.append(
            f"| `{PREFIX}{name.upper()}` | {_kind(field.annotation)} | {default} | {field.description} |"
        )
    return "\n".join([*out, *top, *sections, ""])
