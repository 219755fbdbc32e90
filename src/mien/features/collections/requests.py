"""How endpoints read photos with options, and how the OpenAPI document shows that."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from mien.features.collections.uploads import is_form, kind_of

Options = TypeVar("Options", bound=BaseModel)


def shown(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The documented reply of an endpoint that answers with plain JSON."""
    return {status: {"model": model}}


class OptionsError(RequestValidationError):
    """Options that do not fit; `model` says which there are."""

    def __init__(self, faults: list[dict[str, Any]], given: dict[str, Any], model: type[BaseModel]) -> None:
        super().__init__(faults, body=given)
        self.model = model


def options_of(model: type[Options], fields: Mapping[str, Any], request: Request) -> Options:
    """The options sent with a photo, checked. In a form an empty field counts as not given."""
    form = is_form(request)
    given = {name: value for name, value in fields.items() if not (form and value == "")}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        place = "query" if kind_of(request).startswith("image/") else "body"
        faults = [{**fault, "loc": (place, *fault["loc"])} for fault in error.errors()]
        raise OptionsError(faults, given, model) from None


def photo_body(
    model: type[BaseModel], photos: Mapping[str, str], *, required: bool = True, media: str = "photo"
) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that takes photos (file of a form -> member of JSON) and options.
    One photo may also be the bare body."""
    bare = len(photos) == 1 and media == "photo"
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    schema = _inlined(schema, definitions)
    fields = schema["properties"]
    files = {name: {"type": "string", "format": "binary", "description": f"The {media}."} for name in photos}
    texts = {
        member: {"type": "string", "format": "byte", "description": f"The {media}, in base64."}
        for member in photos.values()
    }
    form = {"type": "object", "properties": {**files, **fields}, "required": list(photos)}
    body = {"type": "object", "properties": {**texts, **fields}}
    if required:
        body["required"] = list(photos.values())
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": body},
    }
    described = {"required": True, "content": content}
    if bare:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
        described["description"] = "A bare image (`image/*`) is the photo; its options stand in the query."
    return {"requestBody": described}


def _inlined(value: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema without references, so that it can stand anywhere in the document."""
    match value:
        case {"$ref": str(reference), **rest}:
            return {**_inlined(definitions[reference.rsplit("/", 1)[-1]], definitions), **rest}
        case dict():
            return {name: _inlined(inner, definitions) for name, inner in value.items()}
        case list():
            return [_inlined(inner, definitions) for inner in value]
        case _:
            return value
