"""Bundles: what goes in comes out, and nothing else gets in."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.models.conftest import NON_COMMERCIAL, Shelf

from mien.kit.errors import ModelError
from mien.vision.models.bundle import bundle_digest, export_bundle, import_bundle
from mien.vision.models.spec import LocalFile
from mien.vision.models.store import ModelStore


@pytest.fixture
def filled(shelf: Shelf, tmp_path: Path) -> ModelStore:
    store = shelf.store(tmp_path / "filled")
    for name, factor in (("one", 2.0), ("two", 3.0)):
        shelf.add(name, factor)
        (tmp_path / name).write_bytes(shelf.data[name])
        store.pull([name], given={name: [LocalFile(tmp_path / name)]})
    return store


@pytest.fixture
def bundle(filled: ModelStore, tmp_path: Path) -> Path:
    export_bundle(filled, ["one", "two"], tmp_path / "models.tar")
    return tmp_path / "models.tar"


def test_round_trip(shelf: Shelf, filled: ModelStore, bundle: Path, tmp_path: Path) -> None:
    store = shelf.store(tmp_path / "other", offline=True)
    done = import_bundle(store, bundle)
    assert [(m.name, m.done) for m in done] == [("one", True), ("two", True)]
    for name in ("one", "two"):
        assert store.path(name).read_bytes() == filled.path(name).read_bytes()
        assert store.check(name, afresh=True, proven=True).state == "ready"
    assert [m.done for m in import_bundle(store, bundle)] == [False, False]


def test_equal_models_make_equal_bundles(filled: ModelStore, bundle: Path, tmp_path: Path) -> None:
    export_bundle(filled, ["one", "two", "one"], tmp_path / "again.tar")
    assert bundle_digest(tmp_path / "again.tar") == bundle_digest(bundle)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".part") == []


def test_a_damaged_model_is_not_exported(filled: ModelStore, tmp_path: Path) -> None:
    path = filled.path("two")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="two is damaged"):
        export_bundle(filled, ["one", "two"], tmp_path / "models.tar")
    assert not (tmp_path / "models.tar").exists()


Member = tuple[tarfile.TarInfo, bytes]


def rewritten(bundle: Path, change: Callable[[list[Member]], None]) -> Path:
    """The bundle with its members changed."""
    with tarfile.open(bundle) as tar:
        members: list[Member] = []
        for entry in tar:
            stream = tar.extractfile(entry)
            assert stream is not None
            members.append((entry, stream.read()))
    change(members)
    target = bundle.with_name("changed.tar")
    with tarfile.open(target, "w") as tar:
        for entry, data in members:
            if entry.isfile():
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target


def flip_a_byte(members: list[Member]) -> None:
    entry, data = members[1]
    members[1] = (entry, data[:500] + bytes([data[500] ^ 1]) + data[501:])


def shorten(members: list[Member]) -> None:
    members[1] = (members[1][0], members[1][1][:-10])


def climb(members: list[Member]) -> None:
    members[1][0].name = "../../one/model.onnx"


def absolute(members: list[Member]) -> None:
    members[1][0].name = "/etc/model.onnx"


def link(members: list[Member]) -> None:
    entry = members[1][0]
    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0


def add_a_member(members: list[Member]) -> None:
    members.append((tarfile.TarInfo("models/three/model.onnx"), b"more"))


def drop_a_member(members: list[Member]) -> None:
    del members[2]


def swap(members: list[Member]) -> None:
    members[1], members[2] = members[2], members[1]


def edit_index(edit: Callable[[Any], object]) -> Callable[[list[Member]], None]:
    def change(members: list[Member]) -> None:
        index = json.loads(members[0][1])
        edit(index)
        members[0] = (members[0][0], json.dumps(index).encode())

    return change


def forge(members: list[Member]) -> None:
    """Another graph with a digest that fits it: only the proof can tell."""
    index = json.loads(members[0][1])
    data = members[2][1]
    index["models"][0].update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    members[0] = (members[0][0], json.dumps(index).encode())
    members[1] = (members[1][0], data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip_a_byte, "wrong digest"),
        (shorten, "another size"),
        (climb, "where its index says"),
        (absolute, "where its index says"),
        (link, "where its index says"),
        (add_a_member, "more than its index says"),
        (drop_a_member, "where its index says"),
        (swap, "where its index says"),
        (forge, "does not give the numbers of its reference"),
        (edit_index(lambda i: i.update(format=2)), "format 2"),
        (edit_index(lambda i: i.pop("models")), "index can't be read"),
        (edit_index(lambda i: i.update(models={})), "index can't be read"),
        (edit_index(lambda i: i["models"][0].update(name="../one")), "not the version"),
        (edit_index(lambda i: i["models"][0].update(name="three")), "not the version"),
        (edit_index(lambda i: i["models"][0].update(key="../../../x")), "not the version"),
        (edit_index(lambda i: i["models"][0].update(extra=1)), "manifest can't be read"),
        (edit_index(lambda i: i["models"][0].update(sha256="0" * 64)), "wrong digest"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(
    shelf: Shelf, bundle: Path, tmp_path: Path, change: Callable[[list[Member]], None], reason: str
) -> None:
    store = shelf.store(tmp_path / "other")
    before = {p for p in tmp_path.rglob("*") if store.root not in p.parents}
    with pytest.raises(ModelError, match=reason):
        import_bundle(store, rewritten(bundle, change))
    after = {p for p in tmp_path.rglob("*") if store.root not in p.parents and p != store.root}
    assert after - before == {tmp_path / "changed.tar"}
    if change not in (add_a_member, drop_a_member):
        assert store.check("one").state == "missing"


@pytest.mark.parametrize("data", [b"", b"text, and no tar" * 100, b"\x1f\x8b" + b"0" * 2000])
def test_a_file_that_is_no_bundle(shelf: Shelf, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="bundle"):
        import_bundle(shelf.store(tmp_path / "other"), path)


def test_a_cut_off_bundle(shelf: Shelf, bundle: Path, tmp_path: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:20_000])
    store = shelf.store(tmp_path / "other")
    with pytest.raises(ModelError, match=r"damaged|cut off"):
        import_bundle(store, bundle)
    assert store.check("one").state == "missing"


def test_import_keeps_the_licence_gate(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add("one", 2.0, licence=NON_COMMERCIAL)
    (tmp_path / "one").write_bytes(shelf.data["one"])
    accepted = frozenset({NON_COMMERCIAL.id})
    store = shelf.store(tmp_path / "filled", accept_licences=accepted)
    store.pull(["one"], given={"one": [LocalFile(tmp_path / "one")]})
    export_bundle(store, ["one"], tmp_path / "models.tar")
    with pytest.raises(ModelError, match="not for commercial use"):
        import_bundle(shelf.store(tmp_path / "other"), tmp_path / "models.tar")
    import_bundle(shelf.store(tmp_path / "other", accept_licences=accepted), tmp_path / "models.tar")
