"""What every blob store does. A new adapter adds a parameter to `maker`."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mien.backends.blobs.base import BlobInfo, BlobStore
from mien.backends.blobs.local import LocalBlobStore
from mien.kit.errors import BadInput, NotFound, TooLarge
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

A, B = TenantId(new_id()), TenantId(new_id())
LIMIT = 100_000
Maker = Callable[[], Awaitable[BlobStore]]


@pytest.fixture(params=["local"])
async def maker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    made: list[BlobStore] = []

    async def make() -> BlobStore:
        store = LocalBlobStore(tmp_path / "blobs", max_bytes=LIMIT)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(maker: Maker) -> BlobStore:
    return await maker()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def keys(store: BlobStore, tenant: TenantId, prefix: str = "") -> list[str]:
    return [key async for key in store.list(tenant, prefix)]


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 100])
async def test_what_is_put_is_got(maker: Maker, data: bytes) -> None:
    store = await maker()
    expected = BlobInfo("photos/a.jpg", len(data), hashlib.sha256(data).hexdigest())
    assert await store.put(A, "photos/a.jpg", data) == expected
    assert await store.get(A, "photos/a.jpg") == data
    await store.close()
    assert await (await maker()).get(A, "photos/a.jpg") == data


async def test_a_stream_is_put_whole(store: BlobStore) -> None:
    parts = [bytes([i]) * 1000 for i in range(50)]
    info = await store.put_stream(A, "s", chunks(*parts))
    whole = b"".join(parts)
    assert info == BlobInfo("s", 50_000, hashlib.sha256(whole).hexdigest())
    assert await store.get(A, "s") == whole


async def test_a_second_put_replaces(store: BlobStore) -> None:
    await store.put(A, "k", b"old")
    await store.put(A, "k", b"new")
    assert await store.get(A, "k") == b"new"
    assert await keys(store, A) == ["k"]


async def test_what_is_not_there(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        await store.get(A, "a/b")
    assert await store.delete(A, "a/b") is False
    assert await store.local_path(A, "a/b") is None
    assert await keys(store, A) == []


async def test_delete(store: BlobStore) -> None:
    await store.put(A, "a/b/c", b"1")
    await store.put(A, "a/b/d", b"2")
    assert await store.delete(A, "a/b/c") is True
    assert await store.delete(A, "a/b/c") is False
    with pytest.raises(NotFound):
        await store.get(A, "a/b/c")
    assert await keys(store, A) == ["a/b/d"]
    assert await store.delete(A, "a/b/d") is True
    await store.put(A, "a/b/c", b"3")
    assert await store.get(A, "a/b/c") == b"3"


async def test_a_list_ascends_and_knows_prefixes(store: BlobStore) -> None:
    names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a/b-c", "a0", "ab", "B", "z/1", "z/10", "z/2", "_"]
    for name in names:
        await store.put(A, name, name.encode())
    assert await keys(store, A) == sorted(names)
    for prefix in ["a", "a/", "a/b", "a/b/", "a/b/c", "z/1", "z/", "nothing", "a/b/c/d"]:
        assert await keys(store, A, prefix) == sorted(name for name in names if name.startswith(prefix))
    for name in names:
        assert await store.get(A, name) == name.encode()


async def test_tenants_are_apart(store: BlobStore) -> None:
    await store.put(A, "k", b"of A")
    with pytest.raises(NotFound):
        await store.get(B, "k")
    assert await store.delete(B, "k") is False
    assert await keys(store, B) == []
    await store.put(B, "k", b"of B")
    assert await store.get(A, "k") == b"of A"
    for trick in (f"../{A}/k", f"..%2f{A}", f"{A}/k"):
        with pytest.raises((BadInput, NotFound)):
            await store.get(B, trick)


BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    "/a",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "../../x",
    "a\\b",
    "a\0b",
    "a b",
    "a\n",
    "ä",
    "a@",
    "a:b",
    "~",
    "a" * 513,
    "/".join(["ab"] * 172),
    "a" * 201,
]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_keys_that_could_leave_the_store_are_refused(store: BlobStore, key: str) -> None:
    with pytest.raises(BadInput):
        await store.put(A, key, b"x")
    with pytest.raises(BadInput):
        await store.put_stream(A, key, chunks(b"x"))
    with pytest.raises(BadInput):
        await store.get(A, key)
    with pytest.raises(BadInput):
        await store.delete(A, key)
    with pytest.raises(BadInput):
        await store.local_path(A, key)
    assert await keys(store, A) == []


@pytest.mark.parametrize("key", ["...", ".hidden", "a..b", "-", "a" * 200, "/".join(["a" * 170] * 3)])
async def test_odd_keys_are_fine(store: BlobStore, key: str) -> None:
    await store.put(A, key, b"x")
    assert await store.get(A, key) == b"x"
    assert await keys(store, A) == [key]


async def test_a_prefix_can_not_leave_the_store(store: BlobStore) -> None:
    await store.put(A, "k", b"of A")
    for prefix in (f"../{A}/", "../", "/", "a/../", "./"):
        with pytest.raises(BadInput):
            await keys(store, B, prefix)


async def test_over_the_limit_nothing_is_kept(store: BlobStore) -> None:
    await store.put(A, "k", b"before")
    with pytest.raises(TooLarge):
        await store.put(A, "k", bytes(LIMIT + 1))
    with pytest.raises(TooLarge):
        await store.put_stream(A, "k", chunks(bytes(LIMIT), b"1"))
    assert await store.get(A, "k") == b"before"
    await store.put(A, "k", bytes(LIMIT))


async def test_a_stream_that_breaks_leaves_what_was(store: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    await store.put(A, "k", b"before")
    with pytest.raises(ConnectionResetError):
        await store.put_stream(A, "k", broken())
    with pytest.raises(ConnectionResetError):
        await store.put_stream(A, "other", broken())
    assert await store.get(A, "k") == b"before"
    assert await keys(store, A) == ["k"]


async def test_a_cancelled_stream_leaves_what_was(store: BlobStore) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half"
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put_stream(A, "k", endless()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys(store, A) == []


async def test_readers_see_one_whole_blob_while_it_is_replaced(store: BlobStore) -> None:
    versions = [bytes([i]) * 50_000 for i in range(20)]
    await store.put(A, "k", versions[0])
    done = asyncio.Event()

    async def write() -> None:
        for version in versions:
            await store.put(A, "k", version)
        done.set()

    async def read() -> int:
        reads = 0
        while not done.is_set():
            assert await store.get(A, "k") in versions
            reads += 1
        return reads

    _, reads = await asyncio.gather(write(), read())
    assert reads > 0


async def test_puts_and_deletes_of_neighbours_at_once(store: BlobStore) -> None:
    async def work(i: int) -> None:
        for _ in range(20):
            await store.put(A, f"deep/er/{i}", b"x")
            assert await store.get(A, f"deep/er/{i}") == b"x"
            assert await store.delete(A, f"deep/er/{i}")

    await asyncio.gather(*(work(i) for i in range(6)))
    assert await keys(store, A) == []


async def test_a_local_path_can_be_read(store: BlobStore) -> None:
    await store.put(A, "a/k", b"x")
    path = await store.local_path(A, "a/k")
    if path is None:
        pytest.skip("this store has no paths")
    assert await asyncio.to_thread(Path(path).read_bytes) == b"x"


async def test_the_local_store_cleans_up_and_keeps_files_private(tmp_path: Path) -> None:
    first = LocalBlobStore(tmp_path)

    async def endless() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.Event().wait()

    await first.put(A, "k", b"x")
    left = tmp_path / "parts@" / "left-by-a-crash"
    left.write_bytes(b"half a photo")
    await first.close()
    second = LocalBlobStore(tmp_path)
    assert not left.exists()
    assert await second.get(A, "k") == b"x"
    path = await second.local_path(A, "k")
    assert path is not None
    mode = (await asyncio.to_thread(Path(path).stat)).st_mode
    assert mode & 0o077 == 0
    assert Path(path).is_relative_to(tmp_path / str(A))
    await second.delete(A, "k")
    assert not (tmp_path / str(A)).exists()
    await second.close()
