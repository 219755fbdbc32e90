"""What only the local vector index promises: its files, its memory, its rebuilds."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from mien.backends.vectors.base import Change, CollectionRef
from mien.backends.vectors.local import LocalVectorIndex, LocalVectorLimits
from mien.backends.vectors.local_file import DamagedIndex, FileIdentity, read_index
from mien.backends.vectors.local_index import FILE_NAME, CollectionIndex, IndexLimits
from mien.backends.vectors.local_lock import ReadWriteLock
from mien.backends.vectors.local_rows import Rows
from mien.kit.errors import Busy, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId
from tests.contracts.faces import Floats, adds, deletes, unit

DIM = 16
WHO = TenantId(new_id())
WHERE = CollectionRef(new_id(), "small", DIM)


def faces(count: int, seed: int = 0) -> Floats:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32))


def file_in(root: Path) -> Path:
    return root / str(WHO) / str(WHERE.id) / FILE_NAME


async def saved(root: Path, count: int = 300, flat_rows: int = 100) -> bytes:
    """A saved index with 4-bit codes; its file's bytes."""
    index = LocalVectorIndex(root, LocalVectorLimits(index=IndexLimits(flat_rows=flat_rows)))
    await index.apply(WHO, WHERE, [*adds(faces(count)), *deletes([2], count + 1)])
    await index.settle()
    await index.close()
    return file_in(root).read_bytes()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[LocalVectorIndex]:
    index = LocalVectorIndex(tmp_path)
    yield index
    await index.close()


# -- damaged files -----------------------------------------------------------------------------


def _damages() -> dict[str, object]:
    def flip(at: float) -> object:
        def damage(data: bytearray) -> bytes:
            data[int(at * (len(data) - 1))] ^= 0x10
            return bytes(data)

        return damage

    return {
        "empty": lambda data: b"",
        "text": lambda data: b"not an index at all" * 1000,
        "header only": lambda data: bytes(data[:4096]),
        "cut by one byte": lambda data: bytes(data[:-1]),
        "cut in half": lambda data: bytes(data[: len(data) // 2]),
        "longer": lambda data: bytes(data) + b"\0",
        "header altered": flip(0.005),
        "labels altered": flip(0.3),
        "rows altered": flip(0.6),
        "codes altered": flip(0.999),
        "zeros": lambda data: bytes(len(data)),
    }


@pytest.mark.parametrize("damage", _damages().values(), ids=_damages().keys())
async def test_a_damaged_file_counts_as_lost(tmp_path: Path, damage: object) -> None:
    data = await saved(tmp_path)
    assert callable(damage)
    file_in(tmp_path).write_bytes(damage(bytearray(data)))
    index = LocalVectorIndex(tmp_path)
    assert await index.applied(WHO, WHERE) == 0
    assert await index.search(WHO, WHERE, faces(1), 1) == [[]]
    assert await index.apply(WHO, WHERE, adds(faces(5))) == 5  # rebuilt by whoever holds the truth
    await index.close()
    index = LocalVectorIndex(tmp_path)
    assert await index.applied(WHO, WHERE) == 5
    await index.close()


async def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    data = await saved(tmp_path, count=40, flat_rows=1000)
    path = file_in(tmp_path)
    spots = np.random.default_rng(0).permutation(len(data))[:150].tolist()
    for spot in [0, 8, 12, 15, 16, 4095, 4096, len(data) - 1, *spots]:
        altered = bytearray(data)
        altered[spot] ^= 1
        path.write_bytes(altered)
        with pytest.raises(DamagedIndex):
            read_index(path, str(WHO), str(WHERE.id))


async def test_the_file_of_another_collection_counts_as_lost(tmp_path: Path) -> None:
    await saved(tmp_path)
    other = CollectionRef(new_id(), WHERE.space_key, DIM)
    shutil.copytree(file_in(tmp_path).parent, tmp_path / str(WHO) / str(other.id))
    index = LocalVectorIndex(tmp_path)
    assert await index.applied(WHO, other) == 0
    assert await index.applied(WHO, WHERE) == 301
    await index.close()


async def test_codes_of_an_unknown_faiss_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rows, "coarse_bytes", lambda self: np.frombuffer(b"IwZZ" + bytes(500), np.uint8))
    await saved(tmp_path)
    monkeypatch.undo()
    limits = LocalVectorLimits(index=IndexLimits(flat_rows=100), housekeeping_s=60)
    index = LocalVectorIndex(tmp_path, limits)
    assert await index.applied(WHO, WHERE) == 301
    assert (await index.stats(WHO, WHERE)).kind == "fp16-flat"
    assert (await index.search(WHO, WHERE, faces(1), 1))[0][0].label == 1
    await index.settle()
    assert (await index.stats(WHO, WHERE)).kind == "pq4-fastscan+fp16"
    assert (await index.search(WHO, WHERE, faces(1), 1))[0][0].label == 1
    await index.close()


async def test_a_file_that_cant_be_read_is_unavailable_and_kept(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    path.mkdir(parents=True)  # reading a folder fails for root too, which permissions would not
    index = LocalVectorIndex(tmp_path)
    with pytest.raises(Unavailable):
        await index.applied(WHO, WHERE)
    with pytest.raises(Unavailable):
        await index.search(WHO, WHERE, faces(1), 1)
    path.rmdir()
    assert await index.applied(WHO, WHERE) == 0
    await index.close()


async def test_files_are_private(tmp_path: Path) -> None:
    await saved(tmp_path)
    assert file_in(tmp_path).stat().st_mode & 0o077 == 0
    assert [path.name for path in file_in(tmp_path).parent.iterdir()] == [FILE_NAME]


async def test_a_deleted_face_is_in_no_later_file(tmp_path: Path) -> None:
    index = LocalVectorIndex(tmp_path)
    people = faces(3)
    await index.apply(WHO, WHERE, adds(people))
    await index.flush()
    row = people[1].astype(np.float16).tobytes()
    assert row in file_in(tmp_path).read_bytes()
    await index.apply(WHO, WHERE, deletes([2], 4))
    await index.flush()
    assert row not in file_in(tmp_path).read_bytes()
    await index.close()


KILLED = """
import sys, uuid
from pathlib import Path
import numpy as np
from mien.backends.vectors.base import Change
from mien.backends.vectors.local_file import FileIdentity
from mien.backends.vectors.local_index import CollectionIndex, IndexLimits
folder, tenant, collection = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
identity = FileIdentity(tenant, collection, "small", 16)
index = CollectionIndex(folder, identity, IndexLimits(flat_rows=10_000))
random = np.random.default_rng(0)
print("ready", index.applied, flush=True)
while True:
    first = index.applied + 1
    rows = random.standard_normal((3000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index.apply([Change(first + i, first + i, row) for i, row in enumerate(rows)])
    if index.rebuild_due():
        index.rebuild()
    index.save()
    print("saved", index.applied, flush=True)
"""


def test_kill_while_saving_leaves_the_last_save(tmp_path: Path) -> None:
    """Killed at a random moment of a loop that does little but save: what was reported as saved is
    there, whole."""
    folder = file_in(tmp_path).parent
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder), str(WHO), str(WHERE.id)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        reported = 0
        for _ in range(int(random.integers(2, 9))):
            reported = int(child.stdout.readline().split()[1])
        # Well within the next round of 3,000 adds and a save, at no fixed point of it.
        threading.Event().wait(float(random.uniform(0, 0.02)))
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()
        child.wait(timeout=30)
        child.stdout.close()
        reported = max(
            [reported, *(int(line.split()[1]) for line in rest.splitlines() if line[-1:].isdigit())]
        )
        found = read_index(folder / FILE_NAME, str(WHO), str(WHERE.id))
        assert found is not None
        rows, applied, _ = found
        assert applied >= reported
        assert rows.live == applied
        labels = rows.search(faces(3), 5, None)[1]
        assert labels.min() >= 1
        assert labels.max() <= applied


# -- rebuilding ----------------------------------------------------------------------------------


def one_index(folder: Path, limits: IndexLimits) -> CollectionIndex:
    return CollectionIndex(folder, FileIdentity(str(WHO), str(WHERE.id), "small", DIM), limits)


def test_removed_rows_are_cleared_out(tmp_path: Path) -> None:
    index = one_index(tmp_path, IndexLimits(compact_least=10, compact_share=0.2))
    people = faces(200)
    index.apply(adds(people))
    index.apply(deletes(range(1, 41), 201))
    assert not index.rebuild_due()  # 40 of 200 is the share, not over it
    index.apply(deletes([41], 241))
    assert index.rebuild_due()
    before = index.search(people[:50], 10, None, -1.0)
    full = index.stats()
    assert index.rebuild()
    after = index.stats()
    assert (after.live, after.removed, after.applied) == (159, 0, 241)
    assert after.memory_bytes < full.memory_bytes
    assert index.search(people[:50], 10, None, -1.0) == before
    assert not index.rebuild_due()


def test_codes_are_trained_anew_after_tenfold_growth(tmp_path: Path) -> None:
    index = one_index(tmp_path, IndexLimits(flat_rows=50))
    index.apply(adds(faces(60)))
    assert index.rebuild_due()
    assert index.rebuild()
    index.apply(adds(faces(540, seed=1), 61))
    assert not index.rebuild_due()
    index.apply(adds(faces(1, seed=2), 601))
    assert index.rebuild_due()


def test_a_small_index_that_shrank_goes_back_to_flat(tmp_path: Path) -> None:
    index = one_index(tmp_path, IndexLimits(flat_rows=50, compact_least=5))
    index.apply(adds(faces(60)))
    index.rebuild()
    assert index.stats().kind == "pq4-fastscan+fp16"
    index.apply(deletes(range(1, 31), 61))
    index.rebuild()
    assert index.stats().kind == "fp16-flat"


@pytest.mark.parametrize("dim", [1, 3, 6, 127])
def test_dimensions_that_cant_be_cut_in_pairs_stay_flat(tmp_path: Path, dim: int) -> None:
    index = CollectionIndex(tmp_path, FileIdentity("t", "c", "s", dim), IndexLimits(flat_rows=10))
    people = unit(np.random.default_rng(0).standard_normal((50, dim), dtype=np.float32))
    index.apply(adds(people))
    assert not index.rebuild_due()
    assert index.search(people[:1], 1, None, -1.0)[0][0].score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("late", [1_500, 100], ids=["many", "a last few"])
def test_changes_that_come_while_rebuilding_are_in_the_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """Adds and deletes at the moment of training, which is when a rebuild has read its rows. Many are
    copied before the switch, the last few under its lock."""
    index = one_index(tmp_path, IndexLimits(flat_rows=100, compact_least=10))
    people = faces(500 + late)
    index.apply([*adds(people[:500]), *deletes([7], 501)])
    train = Rows.train

    def meanwhile(rows: Rows) -> None:
        index.apply([*adds(people[500:], 502), *deletes([1, 590], 502 + late)])
        index.save()
        assert index.search(people[580:581], 1, None, -1.0)[0][0].score > 0.99
        train(rows)

    monkeypatch.setattr(Rows, "train", meanwhile)
    assert index.rebuild()
    stats = index.stats()
    assert (stats.kind, stats.live, stats.applied) == ("pq4-fastscan+fp16", 497 + late, 503 + late)
    gone = {1, 7, 590}
    found = [hits[0].label for hits in index.search(people, 1, None, -1.0)]
    expected = [i + 1 if i < 500 else i + 2 for i in range(500 + late)]
    assert all(got == label for got, label in zip(found, expected, strict=True) if label not in gone)
    assert not gone & set(found)
    index.save()
    again = one_index(tmp_path, IndexLimits(flat_rows=100))
    assert again.stats().live == 497 + late
    assert again.search(people[:20], 5, None, -1.0) == index.search(people[:20], 5, None, -1.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flat_rows", [40, 10_000])
def test_any_order_of_changes_rebuilds_saves_and_restarts(tmp_path: Path, seed: int, flat_rows: int) -> None:
    """Against a dictionary of what is enrolled, searched by NumPy."""
    random = np.random.default_rng(seed)
    limits = IndexLimits(flat_rows=flat_rows, compact_least=5)
    index = one_index(tmp_path, limits)
    enrolled: dict[int, Floats] = {}
    number = 0
    for _ in range(60):
        match random.choice(["add", "add", "delete", "rebuild", "save", "restart", "replace"]):
            case "add":
                people = faces(int(random.integers(1, 60)), seed=int(random.integers(1 << 30)))
                changes = adds(people, number + 1)
                number = index.apply(changes)
                enrolled |= {change.label: people[i] for i, change in enumerate(changes)}
            case "delete" if number:
                gone = random.integers(1, number + 1, int(random.integers(1, 30))).tolist()
                number = index.apply(deletes(gone, number + 1))
                for label in gone:
                    enrolled.pop(label, None)
            case "rebuild" if index.rebuild_due():
                assert index.rebuild()
            case "save":
                index.save()
            case "restart":
                index.save()
                index = one_index(tmp_path, limits)
            case "replace" if random.random() < 0.3:
                index.replace([Change(label, label, face) for label, face in enrolled.items()], number)
        assert index.applied == number
        assert index.stats().live == len(enrolled)
        probes = faces(4, seed=int(random.integers(1 << 30)))
        allowed = np.unique(random.integers(1, number + 2, 50))
        for allow in (None, allowed):
            known = [label for label in enrolled if allow is None or label in allow]
            scores = np.array([enrolled[label] for label in known]).reshape(-1, DIM) @ probes.T
            for column, hits in zip(scores.T, index.search(probes, 5, allow, -1.0), strict=True):
                best = np.sort(column)[::-1][:5]
                np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
                assert {hit.label for hit in hits} <= set(known)


def test_a_rebuild_that_was_overtaken_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = one_index(tmp_path, IndexLimits(flat_rows=100))
    people = faces(300)
    index.apply(adds(people))
    monkeypatch.setattr(Rows, "train", lambda rows: index.replace(adds(people[:5]), 400))
    assert not index.rebuild()
    assert index.stats().live == 5
    assert index.applied == 400


def test_half_an_add_leaves_nothing_rather_than_a_wrong_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = one_index(tmp_path, IndexLimits())
    index.apply(adds(faces(10)))

    def out_of_memory(rows: Rows, labels: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Rows, "_appended", out_of_memory)
    with pytest.raises(MemoryError):
        index.apply(adds(faces(5, seed=1), 11))
    monkeypatch.undo()
    assert index.applied == 0
    assert index.search(faces(1), 1, None, -1.0) == [[]]
    assert index.apply(adds(faces(15))) == 15


def test_saving_is_bounded_in_rate(tmp_path: Path) -> None:
    index = one_index(tmp_path, IndexLimits(save_changes=100, save_idle_s=1000.0, save_rest=0.0))
    index.apply(adds(faces(100)))
    assert index.save_due()
    index.save()
    assert not index.save_due()
    index.apply(adds(faces(99, seed=1), 101))
    assert not index.save_due()
    index.apply(adds(faces(1, seed=2), 200))
    assert index.save_due()
    rested = one_index(tmp_path / "other", IndexLimits(save_changes=1, save_rest=1e9))
    rested.apply(adds(faces(1)))
    rested.save()
    rested.apply(adds(faces(1), 2))
    assert not rested.save_due()
    assert rested.unsaved == 1


async def test_housekeeping_makes_codes_and_saves_by_itself(tmp_path: Path) -> None:
    limits = IndexLimits(flat_rows=100, save_idle_s=0.0, save_rest=0.0)
    index = LocalVectorIndex(tmp_path, LocalVectorLimits(housekeeping_s=0.01, index=limits))
    await index.apply(WHO, WHERE, adds(faces(300)))
    async with asyncio.timeout(30):
        while (await index.stats(WHO, WHERE)).kind == "fp16-flat" or not file_in(tmp_path).exists():
            pass  # each look waits for a thread, so that the loop does not spin
    await index.close()


async def test_a_failed_rebuild_leaves_the_old_rows_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def out_of_memory(rows: Rows) -> None:
        failed.set()
        raise MemoryError

    monkeypatch.setattr(Rows, "train", out_of_memory)
    limits = LocalVectorLimits(housekeeping_s=0.01, index=IndexLimits(flat_rows=100))
    index = LocalVectorIndex(tmp_path, limits)
    people = faces(300)
    await index.apply(WHO, WHERE, adds(people))
    assert await asyncio.to_thread(failed.wait, 30)
    assert [hits[0].label for hits in await index.search(WHO, WHERE, people[:9], 1)] == list(range(1, 10))
    assert await index.apply(WHO, WHERE, adds(faces(1, seed=1), 301)) == 301
    await index.close()
    again = LocalVectorIndex(tmp_path)
    assert await again.applied(WHO, WHERE) == 301  # saved all the same
    await again.close()


async def test_a_save_that_fails_keeps_serving_and_is_made_up_for(tmp_path: Path) -> None:
    index = LocalVectorIndex(tmp_path)
    await index.apply(WHO, WHERE, adds(faces(3)))
    (tmp_path / str(WHO)).write_text("a file where a folder must go")
    await index.flush()
    assert (await index.search(WHO, WHERE, faces(1), 1))[0][0].label == 1
    (tmp_path / str(WHO)).unlink()
    await index.flush()
    await index.close()
    again = LocalVectorIndex(tmp_path)
    assert await again.applied(WHO, WHERE) == 3
    await again.close()


async def test_an_index_that_cant_be_saved_is_not_closed(tmp_path: Path) -> None:
    """Closed, it would come back with an older number, and the next batch would leave a gap."""
    index = LocalVectorIndex(tmp_path, LocalVectorLimits(max_open=1))
    await index.apply(WHO, WHERE, adds(faces(3)))
    await index.flush()
    await index.apply(WHO, WHERE, [Change(4, 4, faces(4)[3])])
    shutil.rmtree(tmp_path / str(WHO) / str(WHERE.id))
    (tmp_path / str(WHO) / str(WHERE.id)).write_text("a file where a folder must go")
    other = CollectionRef(new_id(), WHERE.space_key, DIM)
    await index.apply(WHO, other, adds(faces(1)))
    assert await index.applied(WHO, WHERE) == 4
    assert len(await index.search(WHO, WHERE, faces(1), 9)) == 1
    (tmp_path / str(WHO) / str(WHERE.id)).unlink()
    await index.close()


# -- how many are open ---------------------------------------------------------------------------


async def test_indexes_are_loaded_once_under_many_first_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await saved(tmp_path)
    loads = 0
    load = CollectionIndex._load

    def counted(self: CollectionIndex) -> None:
        nonlocal loads
        loads += 1
        load(self)

    monkeypatch.setattr(CollectionIndex, "_load", counted)
    index = LocalVectorIndex(tmp_path, LocalVectorLimits(search_threads=8))
    found = await asyncio.gather(*(index.search(WHO, WHERE, faces(1), 1) for _ in range(40)))
    assert {hits[0][0].label for hits in found} == {1}
    assert loads == 1
    await index.close()


async def test_the_longest_unused_is_closed_and_comes_back(tmp_path: Path) -> None:
    index = LocalVectorIndex(tmp_path, LocalVectorLimits(max_open=2))
    refs = [CollectionRef(new_id(), "small", DIM) for _ in range(6)]
    people = faces(6)
    for round_ in range(3):
        for i, where in enumerate(refs):
            number = round_ + 1
            assert await index.apply(WHO, where, [Change(number, number, people[i])]) == number
            assert len(index._open._places) <= 2
    for i, where in enumerate(refs):
        assert [hit.label for hit in (await index.search(WHO, where, people[i : i + 1], 9))[0]] == [1, 2, 3]
    await index.close()


async def test_many_collections_at_once_with_few_open(tmp_path: Path) -> None:
    index = LocalVectorIndex(tmp_path, LocalVectorLimits(max_open=1, search_threads=4))
    refs = [CollectionRef(new_id(), "small", DIM) for _ in range(8)]
    people = faces(8)

    async def work(i: int) -> None:
        for number in range(1, 6):
            assert await index.applied(WHO, refs[i]) == number - 1
            assert await index.apply(WHO, refs[i], [Change(number, number, people[i])]) == number
            [hits] = await index.search(WHO, refs[i], people[i : i + 1], 9)
            assert [hit.label for hit in hits] == list(range(1, number + 1))
            await index.flush()

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(i) for i in range(8)))
    await index.close()


# -- bounds --------------------------------------------------------------------------------------


async def test_over_the_queue_a_search_is_refused_at_once(
    opened: LocalVectorIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = LocalVectorIndex(tmp_path / "b", LocalVectorLimits(search_threads=1, waiting=1))
    begun, go_on = threading.Event(), threading.Event()
    search = CollectionIndex.search

    def held(self: CollectionIndex, *args: object) -> object:
        begun.set()
        assert go_on.wait(30)
        return search(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(CollectionIndex, "search", held)
    first = asyncio.create_task(index.search(WHO, WHERE, faces(1), 1))
    await asyncio.to_thread(begun.wait, 30)
    second = asyncio.create_task(index.search(WHO, WHERE, faces(1), 1))
    await asyncio.sleep(0)  # lets `second` take its place in the queue
    with pytest.raises(Busy):
        await index.search(WHO, WHERE, faces(1), 1)
    go_on.set()
    assert [await first, await second] == [[[]], [[]]]
    await index.close()


async def test_after_close_it_is_unavailable(tmp_path: Path) -> None:
    index = LocalVectorIndex(tmp_path)
    await index.apply(WHO, WHERE, adds(faces(1)))
    await index.close()
    await index.close()
    for call in (
        index.search(WHO, WHERE, faces(1), 1),
        index.apply(WHO, WHERE, adds(faces(1), 2)),
        index.applied(WHO, WHERE),
        index.flush(),
    ):
        with pytest.raises(Unavailable):
            await call


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []
    reading, let_go = threading.Event(), threading.Event()

    def read_first() -> None:
        with lock.read():
            reading.set()
            let_go.wait(30)

    def write() -> None:
        with lock.write():
            order.append("write")

    def read_later() -> None:
        with lock.read():
            order.append("read")

    first = threading.Thread(target=read_first)
    first.start()
    reading.wait(30)
    writer = threading.Thread(target=write)
    writer.start()
    while not lock._writers_waiting:
        pass
    later = threading.Thread(target=read_later)
    later.start()
    let_go.set()
    for thread in (first, writer, later):
        thread.join(30)
    assert order == ["write", "read"]
