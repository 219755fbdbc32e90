"""Endpoints for the persons of a collection."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from mien.features.collections import replies, wire
from mien.features.collections.requests import options_of, photo_body, shown
from mien.features.collections.schemas import CreatePerson, FaceIds, PersonSearchOptions, UpdatePerson
from mien.features.collections.service import CollectionsService
from mien.features.collections.uploads import read_photos
from mien.kit.errors import BadInput
from mien.kit.tenant import Principal


def person_routes(
    service: CollectionsService, authenticate: Callable[..., Awaitable[Principal]]
) -> APIRouter:
    """/collections/{name}/persons."""
    routes = APIRouter(prefix="/collections/{name}/persons", tags=["persons"])

    @routes.post("", summary="Make a person", status_code=201, responses=shown(replies.PersonReply, 201))
    async def create_person(
        name: str, body: CreatePerson, who: Principal = Depends(authenticate)
    ) -> Response:
        """Make a person."""
        made = await service.persons.create(
            who.tenant_id,
            name,
            person_name=body.name,
            kind=body.kind,
            external_id=body.external_id,
            facts=body.metadata,
        )
        return wire.answer(wire.person(made), 201)

    @routes.get("", summary="List the persons of a collection", responses=shown(replies.PersonList))
    async def list_persons(
        name: str,
        limit: int = Query(100, ge=1, le=1000),
        cursor: str | None = Query(None, max_length=2000),
        kind: str | None = Query(None, max_length=64),
        external_id: str | None = Query(None, min_length=1, max_length=512),
        who: Principal = Depends(authenticate),
    ) -> Response:
        """Persons in the order in which they were made."""
        page = await service.persons.page(
            who.tenant_id, name, limit=limit, cursor=cursor, kind=kind, external_id=external_id
        )
        return wire.answer(wire.page("persons", [wire.person(p) for p in page.items], page))

    @routes.post(
        "/search",
        summary="Search for persons by a photo or a face",
        responses=shown(replies.PersonSearchReply),
        openapi_extra=photo_body(PersonSearchOptions, {"file": "image"}, required=False),
    )
    async def search_persons(name: str, request: Request, who: Principal = Depends(authenticate)) -> Response:
        """Persons for every face of a photo, or for a stored face, by best and mean score."""
        photos, fields = await read_photos(request, {"file": "image"}, service.limits)
        options = options_of(PersonSearchOptions, fields, request)
        wanted = options.to_request()
        if ("file" in photos) == (options.face_id is not None):
            raise BadInput("Give one of image, face_id.", field="image")
        if options.face_id is None:
            found = await service.persons.search_photo(
                who.tenant_id, name, photos["file"], wanted, sort=options.sort
            )
        else:
            found = await service.persons.search_face(
                who.tenant_id, name, options.face_id, wanted, sort=options.sort
            )
        return wire.answer(wire.found_persons(found))

    @routes.get("/{person_id}", summary="Show a person", responses=shown(replies.PersonReply))
    async def get_person(name: str, person_id: UUID, who: Principal = Depends(authenticate)) -> Response:
        """One person."""
        return wire.answer(wire.person(await service.persons.get(who.tenant_id, name, person_id)))

    @routes.patch("/{person_id}", summary="Change a person", responses=shown(replies.PersonReply))
    async def update_person(
        name: str, person_id: UUID, body: UpdatePerson, who: Principal = Depends(authenticate)
    ) -> Response:
        """Change a person."""
        changed = await service.persons.update(
            who.tenant_id,
            name,
            person_id,
            person_name=body.name,
            kind=body.kind,
            external_id=body.external_id,
            facts=body.metadata,
        )
        return wire.answer(wire.person(changed))

    @routes.delete("/{person_id}", summary="Delete a person", status_code=204)
    async def delete_person(name: str, person_id: UUID, who: Principal = Depends(authenticate)) -> Response:
        """Delete a person; the faces stay in the collection."""
        await service.persons.delete(who.tenant_id, name, person_id)
        return Response(status_code=204)

    @routes.post(
        "/{person_id}/faces", summary="Give faces to a person", responses=shown(replies.AttachedReply)
    )
    async def attach_faces(
        name: str, person_id: UUID, body: FaceIds, who: Principal = Depends(authenticate)
    ) -> Response:
        """Give stored faces to a person, also such as had another."""
        done, missing = await service.persons.attach(who.tenant_id, name, person_id, body.face_ids)
        return wire.answer({"attached": [str(i) for i in done], "not_found": [str(i) for i in missing]})

    @routes.post(
        "/{person_id}/faces/detach",
        summary="Take faces from a person",
        responses=shown(replies.DetachedReply),
    )
    async def detach_faces(
        name: str, person_id: UUID, body: FaceIds, who: Principal = Depends(authenticate)
    ) -> Response:
        """Take faces from a person; they stay in the collection."""
        done, missing = await service.persons.detach(who.tenant_id, name, person_id, body.face_ids)
        return wire.answer({"detached": [str(i) for i in done], "not_found": [str(i) for i in missing]})

    return routes
