"""`/v1/keys` and `/v1/tenants/me`."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from mien.features.tenants.schemas import KeyCreate, KeyOut, KeysOut, NewKeyOut, TenantOut
from mien.features.tenants.service import ApiKey, TenantsService
from mien.kit.errors import BadInput
from mien.kit.tenant import Principal


def router(service: TenantsService, authenticate: Callable[..., Awaitable[Principal]]) -> APIRouter:
    """Endpoints of this slice; `authenticate` is the dependency that knows who asks."""
    routes = APIRouter(prefix="/v1", tags=["Keys"])
    who = Annotated[Principal, Depends(authenticate)]

    @routes.get("/tenants/me", summary="The tenant of this key")
    async def me(principal: who) -> TenantOut:
        """Whose data this key reaches, and its role."""
        by: Principal = principal
        tenant = await service.tenant(by.tenant_id)
        return TenantOut(
            id=tenant.id, slug=tenant.slug, name=tenant.name, role=by.role, created_at=tenant.created_at
        )

    @routes.post("/keys", status_code=201, summary="Make an API key (its text is shown once)")
    async def create(body: KeyCreate, principal: who) -> NewKeyOut:
        """The answer holds the key's text, which is not kept: store it now."""
        if body.expires_at is not None and body.expires_at.tzinfo is None:
            raise BadInput("Say the time zone too: 2030-01-01T00:00:00Z.", field="expires_at")
        key, text = await service.create_key(
            principal, name=body.name, kind=body.kind, expires_at=body.expires_at
        )
        return NewKeyOut(**_out(key).model_dump(), key=text)

    @routes.get("/keys", summary="List API keys")
    async def keys(
        principal: who,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> KeysOut:
        """All keys of the tenant, the revoked ones too, without their secrets."""
        page = await service.list_keys(principal, cursor=cursor, limit=limit)
        return KeysOut(keys=[_out(key) for key in page.items], next_cursor=page.next_cursor)

    @routes.post("/keys/{key_id}/revoke", summary="Revoke an API key, for good")
    async def revoke(key_id: UUID, principal: who) -> KeyOut:
        """Requests with this key are refused from now on."""
        return _out(await service.revoke_key(principal, key_id))

    return routes


def _out(key: ApiKey) -> KeyOut:
    return KeyOut(
        id=key.id,
        name=key.name,
        kind=key.kind,
        prefix=key.prefix,
        role=key.role,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
    )
