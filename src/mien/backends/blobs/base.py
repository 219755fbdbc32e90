"""The port of blob stores: bytes under a key, kept apart by tenant."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from mien.kit.tenant import TenantId


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """`key` as given to `put`; `size` in bytes; `sha256` in hex."""

    key: str
    size: int
    sha256: str


class BlobStore(Protocol):
    """Keys are relative, '/'-separated, made of [A-Za-z0-9._-] (BadInput otherwise), at most 512 long
    and 200 in each part; no part is "." or "..".

    A put is atomic: a reader sees the whole blob or none, also after a crash.
    """

    async def put(self, tenant: TenantId, key: str, data: bytes) -> BlobInfo: ...

    async def put_stream(self, tenant: TenantId, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo: ...

    async def get(self, tenant: TenantId, key: str) -> bytes:
        """The bytes; NotFound if there are none."""
        ...

    async def local_path(self, tenant: TenantId, key: str) -> str | None:
        """A path of this machine where the blob can be read, if the store has one."""
        ...

    async def delete(self, tenant: TenantId, key: str) -> bool:
        """True if something was deleted."""
        ...

    def list(self, tenant: TenantId, prefix: str = "") -> AsyncIterator[str]:
        """Keys of the tenant that begin with `prefix`, in ascending order."""
        ...

    async def close(self) -> None: ...
