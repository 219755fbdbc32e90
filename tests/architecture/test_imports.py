"""The house's rules that hold for imports; `lint-imports` (pyproject.toml) holds the coarser ones."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths_to_data import ROOT

SOURCE = ROOT / "src" / "mien"
FILES = sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, at whatever depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_runtimes_are_the_only_door_to_model_runtimes() -> None:
    # The model store proves conversions with ONNX Runtime through the same door.
    wrong = [
        place(p)
        for p in FILES
        if not place(p).startswith("vision/runtimes/")
        and any(m.split(".")[0] in {"onnxruntime", "openvino"} for m in imported(p))
    ]
    assert wrong == []


def test_only_the_container_names_adapters() -> None:
    """A concrete adapter is imported by the container and by files of its own port."""
    ports = ["vectors", "blobs", "queue", "bus", "pipelines", "sql"]
    wrong = []
    for path in FILES:
        at = place(path)
        if at == "runtime/container.py" or at.startswith("migrations/"):
            continue
        for module in imported(path):
            parts = module.split(".")
            if parts[:2] != ["mien", "backends"] or len(parts) < 4 or parts[2] not in ports:
                continue
            if parts[3] != "base" and not at.startswith(f"backends/{parts[2]}/"):
                wrong.append(f"{at}: {module}")
    assert wrong == []


def test_slices_meet_only_at_their_services() -> None:
    wrong = []
    for path in FILES:
        at = place(path)
        if not at.startswith("features/") or at.count("/") < 2:
            continue
        own = at.split("/")[1]
        for module in imported(path):
            parts = module.split(".")
            if (
                parts[:2] == ["mien", "features"]
                and len(parts) > 3
                and parts[2] != own
                and parts[3] != "service"
            ):
                wrong.append(f"{at}: {module}")
    assert wrong == []


@pytest.mark.parametrize("folder", ["kit", "vision", "backends", "features"])
def test_nobody_imports_runtime(folder: str) -> None:
    wrong = [
        place(p)
        for p in FILES
        if place(p).startswith(folder + "/") and any(m.startswith("mien.runtime") for m in imported(p))
    ]
    assert wrong == []
