"""Endpoints for faces, searches and imports of a collection."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from mien.features.collections import replies, wire
from mien.features.collections.imports import ImportRequest
from mien.features.collections.requests import options_of, photo_body, shown
from mien.features.collections.schemas import FaceIds, ImportOptions, IndexOptions, SearchOptions
from mien.features.collections.search import aside
from mien.features.collections.service import CollectionsService
from mien.features.collections.uploads import is_form, read_archive, read_json, read_photo, read_photos
from mien.kit.errors import BadInput
from mien.kit.tenant import Principal

_ONE = {"file": "image"}


def face_routes(service: CollectionsService, authenticate: Callable[..., Awaitable[Principal]]) -> APIRouter:
    """/collections/{name}/faces, /search and /imports."""
    routes = APIRouter(prefix="/collections/{name}")

    @routes.post(
        "/search",
        summary="Search a collection by a photo, a face or an embedding",
        tags=["search"],
        responses=shown(replies.SearchReply),
        openapi_extra=photo_body(SearchOptions, _ONE, required=False),
    )
    async def search(name: str, request: Request, who: Principal = Depends(authenticate)) -> Response:
        """Search with every face of a photo, with a stored face, or with an embedding."""
        photos, fields = await read_photos(request, _ONE, service.limits)
        options = options_of(SearchOptions, fields, request)
        wanted = options.to_request()
        photo = photos.get("file")
        _one_of(image=photo, face_id=options.face_id, embedding=options.embedding)
        if photo is not None:
            found = await service.search.by_photo(who.tenant_id, name, photo, wanted)
        elif options.face_id is not None:
            found = await service.search.by_face(who.tenant_id, name, options.face_id, wanted)
        else:
            if options.space is None:
                raise BadInput(
                    "Name the embedding's space; `describe` shows the collection's.", field="space"
                )
            found = await service.search.by_embedding(
                who.tenant_id, name, options.embedding or [], options.space, wanted
            )
        matches = sum(len(result.matches) for result in found.results)
        return await aside(matches, lambda: wire.answer(wire.found(found)))

    @routes.post(
        "/faces",
        summary="Store the faces of a photo",
        status_code=201,
        tags=["faces"],
        responses=shown(replies.IndexedReply, 201),
        openapi_extra=photo_body(IndexOptions, _ONE),
    )
    async def index_faces(name: str, request: Request, who: Principal = Depends(authenticate)) -> Response:
        """Store the faces of a photo, all or none; those left out come with their reasons."""
        photo = await read_photo(request, service.limits)
        options = options_of(IndexOptions, photo.fields, request)
        done = await service.faces.index(who.tenant_id, name, photo.data, options.to_request())
        return wire.answer(wire.indexed(done), 201)

    @routes.get(
        "/faces", summary="List the faces of a collection", tags=["faces"], responses=shown(replies.FaceList)
    )
    async def list_faces(
        name: str,
        limit: int = Query(100, ge=1, le=1000),
        cursor: str | None = Query(None, max_length=2000),
        external_image_id: str | None = Query(None, max_length=512),
        person_id: UUID | None = None,
        who: Principal = Depends(authenticate),
    ) -> Response:
        """Faces in the order in which they were indexed."""
        page = await service.faces.page(
            who.tenant_id,
            name,
            limit=limit,
            cursor=cursor,
            external_image_id=external_image_id,
            person_id=person_id,
        )
        return wire.answer(wire.page("faces", [wire.face(face) for face in page.items], page))

    @routes.post(
        "/faces/delete", summary="Delete many faces", tags=["faces"], responses=shown(replies.DeletedReply)
    )
    async def delete_faces(name: str, body: FaceIds, who: Principal = Depends(authenticate)) -> Response:
        """Delete up to 1000 faces for good."""
        deleted, missing = await service.faces.delete(who.tenant_id, name, body.face_ids)
        return wire.answer({"deleted": [str(i) for i in deleted], "not_found": [str(i) for i in missing]})

    @routes.get("/faces/{face_id}", summary="Show a face", tags=["faces"], responses=shown(replies.FaceReply))
    async def get_face(name: str, face_id: UUID, who: Principal = Depends(authenticate)) -> Response:
        """One stored face."""
        return wire.answer(wire.face(await service.faces.get(who.tenant_id, name, face_id)))

    @routes.delete("/faces/{face_id}", summary="Delete a face", tags=["faces"], status_code=204)
    async def delete_face(name: str, face_id: UUID, who: Principal = Depends(authenticate)) -> Response:
        """Delete one face for good."""
        await service.faces.delete_one(who.tenant_id, name, face_id)
        return Response(status_code=204)

    @routes.post(
        "/imports",
        summary="Import an archive or a folder of photos",
        status_code=202,
        tags=["imports"],
        responses=shown(replies.JobReply, 202),
        openapi_extra=photo_body(ImportOptions, {"file": "archive"}, required=False, media="zip archive"),
    )
    async def import_photos(name: str, request: Request, who: Principal = Depends(authenticate)) -> Response:
        """Index all photos of a zip archive (form) or of an allowed folder (JSON), as a job."""
        if is_form(request):
            async with read_archive(request, service.limits) as (archive, fields):
                options = options_of(ImportOptions, fields, request)
                if options.folder is not None:
                    raise BadInput("Give a file or a folder, not both.", field="folder")
                job = await service.imports.from_archive(
                    who.tenant_id, name, archive, ImportRequest(options.to_request(), options.persons)
                )
        else:
            body = await read_json(request, service.limits.field_bytes)
            options = options_of(ImportOptions, body, request)
            if options.folder is None:
                raise BadInput("Send a form with a zip as `file`, or `folder` as JSON.", field="folder")
            job = await service.imports.from_folder(
                who.tenant_id, name, options.folder, ImportRequest(options.to_request(), options.persons)
            )
        return wire.answer(wire.job(job), 202)

    return routes


def _one_of(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise BadInput(f"Give one of {', '.join(given)}.", field=names[0] if names else "image")
