"""Rules about the code itself: where queries, commits and settings may stand, names, sizes."""

import ast
import inspect
import re
import typing
from pathlib import Path

import pytest

from tests.architecture.test_imports import FILES, place
from tests.paths_to_data import ROOT

LONGER_WITH_A_REASON: dict[str, str] = {}
"""Files over 500 lines, each with why."""


def calls(path: Path) -> list[tuple[str, int]]:
    """(name, line) of everything called in a file: `x.commit()` gives "commit"."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            f = node.func
            if isinstance(f, ast.Attribute):
                found.append((f.attr, node.lineno))
            elif isinstance(f, ast.Name):
                found.append((f.id, node.lineno))
    return found


def test_commit_stands_only_in_the_unit_of_work() -> None:
    wrong = [
        f"{place(p)}:{line}"
        for p in FILES
        for name, line in calls(p)
        if name in {"commit", "rollback"} and not place(p).startswith("backends/sql/")
    ]
    assert wrong == []


def test_queries_stand_only_in_repositories() -> None:
    wrong = []
    for path in FILES:
        at = place(path)
        if not at.startswith(("features/", "runtime/")) or "repository" in at:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
            for alias in node.names
        }
        wrong += [f"{at}: {n}" for n in names & {"select", "insert", "update", "delete", "text", "func"}]
    assert wrong == []


@pytest.mark.parametrize("port", ["vectors", "blobs", "bus"])
def test_adapters_take_the_tenant_first(port: str) -> None:
    import mien.backends.blobs.base as blobs
    import mien.backends.bus.base as bus
    import mien.backends.vectors.base as vectors

    contract: type = {"vectors": vectors.VectorIndex, "blobs": blobs.BlobStore, "bus": bus.EventBus}[port]
    whole_store = {"flush", "close"}
    for name, method in inspect.getmembers(contract, inspect.isfunction):
        if name.startswith("_") or name in whole_store:
            continue
        parameters = list(inspect.signature(method).parameters)
        assert parameters[1:2] == ["tenant"], f"{contract.__name__}.{name}"
        assert "tenant" in typing.get_type_hints(method)


def test_names_say_what_a_module_is() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
    assert [place(p) for p in FILES if vague & set(place(p).removesuffix(".py").split("/"))] == []
    classes = [
        f"{place(p)}: {node.name}"
        for p in FILES
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Helper|Util)s?$", node.name)
    ]
    assert classes == []


def test_long_files_have_a_reason() -> None:
    long = {place(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert long.keys() == LONGER_WITH_A_REASON.keys()


def test_settings_enter_constructors() -> None:
    wrong = [
        f"{place(p)}:{line}"
        for p in FILES
        if not place(p).startswith("runtime/")
        for name, line in calls(p)
        if name in {"getenv", "get_settings"}
    ]
    assert wrong == []


def test_nothing_prints_but_the_command_line() -> None:
    wrong = [
        f"{place(p)}:{line}"
        for p in FILES
        if not place(p).startswith("runtime/")
        for name, line in calls(p)
        if name == "print"
    ]
    assert wrong == []


def test_lock_files_name_no_host_and_hash_everything() -> None:
    locks = [p for p in (ROOT / "requirements").glob("*.txt") if "overrides" not in p.name]
    assert len(locks) >= 4
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text
        pins = re.findall(r"^[A-Za-z0-9._-]+(?:\[[^]]*\])?==\S+", text, re.MULTILINE)
        entries = re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)
        assert len(pins) == len(entries), lock.name
        assert text.count("--hash=sha256:") >= len(pins), lock.name
