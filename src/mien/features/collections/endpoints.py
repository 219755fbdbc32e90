"""The Collections API: `router` puts its parts together."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mien.features.collections import replies, wire
from mien.features.collections.endpoints_faces import face_routes
from mien.features.collections.endpoints_persons import person_routes
from mien.features.collections.endpoints_photos import photo_routes
from mien.features.collections.requests import shown
from mien.features.collections.schemas import CreateCollection, UpdateCollection, to_policy
from mien.features.collections.service import CollectionsService
from mien.kit.tenant import Principal

Authenticate = Callable[..., Awaitable[Principal]]


def router(service: CollectionsService, *, authenticate: Authenticate) -> APIRouter:
    """All routes of the slice, under /v1."""
    routes = APIRouter(prefix="/v1")
    # The busiest first: they are tried one after the other, several times for each request.
    routes.include_router(face_routes(service, authenticate))
    routes.include_router(photo_routes(service, authenticate))
    routes.include_router(_collection_routes(service, authenticate))
    routes.include_router(person_routes(service, authenticate))
    return routes


def _collection_routes(service: CollectionsService, authenticate: Authenticate) -> APIRouter:
    routes = APIRouter(prefix="/collections", tags=["collections"])

    @routes.post(
        "", summary="Make a collection", status_code=201, responses=shown(replies.CollectionReply, 201)
    )
    async def create_collection(body: CreateCollection, who: Principal = Depends(authenticate)) -> Response:
        """Make a collection in the space of the models in use."""
        made = await service.catalog.create(
            who.tenant_id,
            body.name,
            description=body.description,
            facts=body.metadata,
            policy=to_policy(body.policy),
        )
        return wire.answer(wire.collection(made), 201)

    @routes.get("", summary="List the collections", responses=shown(replies.CollectionList))
    async def list_collections(
        limit: int = Query(100, ge=1, le=1000),
        cursor: str | None = Query(None, max_length=2000),
        who: Principal = Depends(authenticate),
    ) -> Response:
        """Collections by name."""
        page = await service.catalog.page(who.tenant_id, limit=limit, cursor=cursor)
        return wire.answer(wire.page("collections", [wire.collection(c) for c in page.items], page))

    @routes.get("/{name}", summary="Show a collection", responses=shown(replies.DescribeReply))
    async def describe_collection(name: str, who: Principal = Depends(authenticate)) -> Response:
        """A collection with its counts, its threshold now and the state of its index."""
        return wire.answer(wire.described(await service.catalog.describe(who.tenant_id, name)))

    @routes.patch("/{name}", summary="Change a collection", responses=shown(replies.CollectionReply))
    async def update_collection(
        name: str, body: UpdateCollection, who: Principal = Depends(authenticate)
    ) -> Response:
        """Change the description, the metadata or the policy."""
        changed = await service.catalog.update(
            who.tenant_id,
            name,
            description=body.description,
            facts=body.metadata,
            policy=to_policy(body.policy),
        )
        return wire.answer(wire.collection(changed))

    @routes.delete("/{name}", summary="Delete a collection", status_code=204)
    async def delete_collection(name: str, who: Principal = Depends(authenticate)) -> Response:
        """Delete a collection with all its faces and persons."""
        await service.catalog.delete(who.tenant_id, name)
        return Response(status_code=204)

    @routes.get(
        "/{name}/thresholds", summary="List how the threshold moved", responses=shown(replies.MoveList)
    )
    async def list_thresholds(
        name: str,
        limit: int = Query(100, ge=1, le=1000),
        cursor: str | None = Query(None, max_length=2000),
        who: Principal = Depends(authenticate),
    ) -> Response:
        """How the collection's threshold moved, newest first, and what caused each move."""
        page = await service.catalog.thresholds(who.tenant_id, name, limit=limit, cursor=cursor)
        return wire.answer(wire.page("thresholds", [wire.move(m) for m in page.items], page))

    return routes
