"""Endpoints for photos alone: detect and compare."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from mien.features.collections import replies, wire
from mien.features.collections.requests import options_of, photo_body, shown
from mien.features.collections.schemas import CompareOptions, DetectOptions, to_policy
from mien.features.collections.service import CollectionsService
from mien.features.collections.uploads import read_photo, read_photos
from mien.kit.errors import BadInput
from mien.kit.tenant import Principal

_BOTH = {"source": "source", "target": "target"}


def photo_routes(service: CollectionsService, authenticate: Callable[..., Awaitable[Principal]]) -> APIRouter:
    """/detect and /compare."""
    routes = APIRouter(tags=["photos"])

    @routes.post(
        "/detect",
        summary="Find the faces of a photo",
        responses=shown(replies.DetectReply),
        openapi_extra=photo_body(DetectOptions, {"file": "image"}),
    )
    async def detect(request: Request, who: Principal = Depends(authenticate)) -> Response:
        """The faces of a photo, largest first. No face is an empty list, not an error."""
        photo = await read_photo(request, service.limits)
        options = options_of(DetectOptions, photo.fields, request)
        found = await service.photos.detect(
            who.tenant_id,
            photo.data,
            attributes=frozenset(options.attributes),
            thorough=options.thorough,
            max_faces=options.max_faces,
            min_confidence=options.min_confidence,
        )
        return wire.answer(
            wire.detected(found, objects="objects" in options.attributes, timings=options.timings)
        )

    @routes.post(
        "/compare",
        summary="Compare the faces of two photos",
        responses=shown(replies.CompareReply),
        openapi_extra=photo_body(CompareOptions, _BOTH),
    )
    async def compare(request: Request, who: Principal = Depends(authenticate)) -> Response:
        """All faces of one photo against all of another: every score, and the pairs that match."""
        photos, fields = await read_photos(request, _BOTH, service.limits)
        if len(photos) < 2:
            raise BadInput("Give two photos: source and target.", field="source")
        options = options_of(CompareOptions, fields, request)
        compared = await service.photos.compare(
            who.tenant_id,
            photos["source"],
            photos["target"],
            policy=to_policy(options.policy),
            thorough=options.thorough,
            max_faces=options.max_faces,
            min_confidence=options.min_confidence,
            min_quality=options.quality_floor,
        )
        return wire.answer(wire.compared(compared))

    return routes
