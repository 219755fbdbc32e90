"""What validation found, in plain words: one fault per place, as RFC 9457's `errors` members.

Pydantic's own texts speak of its insides ("Value error, ..."), and of types that callers never see.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

_MOST = 100
_POLICIES = ("score", "distance", "fmr", "fpir")

_PLAIN = {
    "missing": "is missing",
    "none_required": "can't be given here",
    "json_invalid": "is no valid JSON",
    "finite_number": "must be a finite number",
    "string_unicode": "is not valid Unicode",
}
# By the first word of pydantic's error types: uuid_parsing, int_from_float, datetime_type, ...
_KINDS = {
    "uuid": "must be a UUID, such as 0198c1f2-7d6a-7cc0-9f4e-3a5b7c9d1e2f",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a text",
    "list": "must be a list",
    "dict": "must be a JSON object",
    "model": "must be a JSON object",
    "datetime": "must be a time, such as 2030-01-01T00:00:00Z",
    "timezone": "must be a time with its zone, such as 2030-01-01T00:00:00Z",
}


def faults_of(error: RequestValidationError, request: Request) -> list[dict[str, str]]:
    """Each place that does not fit: `detail`, and its JSON `pointer` into the body or its `parameter`."""
    model = getattr(error, "model", None) or _body_model(request)
    found: dict[tuple[str, str], list[str]] = {}
    for fault in error.errors():
        where = _where(fault, error.body)
        # The members of a union fail one by one, all at the same place.
        words = found.setdefault(where, [])
        said = _words(fault, model)
        if said not in words:
            words.append(said)
    faults = []
    for (kind, place), words in found.items():
        rest = [word.removeprefix("must be ") for word in words[1:]]
        faults.append({"detail": " or ".join([words[0], *rest]), kind: place})
        if len(faults) == _MOST:
            break
    return faults


def summary_of(faults: Sequence[Mapping[str, str]]) -> str:
    """The first faults as a sentence."""
    said = []
    for fault in faults[:3]:
        name = fault.get("parameter") or fault.get("pointer", "").removeprefix("/").replace("/", ".")
        said.append(f"{name or 'The body'} {fault['detail']}")
    return "; ".join(said) + "." if said else "The request does not fit."


def _body_model(request: Request) -> type[BaseModel] | None:
    route = request.scope.get("fastapi", {}).get("effective_route_context") or request.scope.get("route")
    dependant = getattr(route, "dependant", None)
    parameters = dependant.body_params if dependant is not None else []
    return _model_in(parameters[0].field_info.annotation) if len(parameters) == 1 else None


def _where(fault: Mapping[str, Any], body: Any) -> tuple[str, str]:
    """("pointer", "/faces/0/id") or ("parameter", "limit")."""
    head, *rest = fault["loc"] or ("body",)
    if head != "body":
        return "parameter", ".".join(str(part) for part in rest) or str(head)
    if fault["type"] == "json_invalid":
        return "pointer", ""  # the rest is a position, no place
    parts: list[str] = []
    for part in rest:
        if isinstance(body, str) and body.lstrip()[:1] in ("{", "["):
            body = _parsed(body)  # JSON as a form's text
        if isinstance(body, Mapping):
            body = body.get(str(part))
        elif isinstance(body, list) and isinstance(part, int):
            body = body[part] if part < len(body) else None
        elif parts:
            break  # the name of a union's member, no place in what was sent
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "pointer", "".join("/" + part for part in parts)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _words(fault: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    kind: str = fault["type"]
    context: Mapping[str, Any] = fault.get("ctx") or {}
    match kind:
        case "extra_forbidden":
            return _unknown(fault, model)
        case "value_error":
            return str(fault["msg"]).removeprefix("Value error, ")
        case "literal_error" | "enum":
            return f"must be {context.get('expected', 'one of its choices')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "greater_than":
            return f"must be over {context['gt']:g}"
        case "less_than":
            return f"must be under {context['lt']:g}"
        case "string_too_short" | "too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "string_too_short":
            return f"must have at least {context['min_length']} characters"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "too_short":
            return f"must have at least {context['min_length']} items"
        case "too_long":
            return f"must have at most {context['max_length']} items"
    return _PLAIN.get(kind) or _KINDS.get(kind.partition("_")[0], "does not fit")


def _unknown(fault: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    *parents, name = fault["loc"][1:]
    for part in parents:
        if model is not None and not isinstance(part, int):
            field = model.model_fields.get(str(part))
            model = None if field is None else _model_in(field.annotation)
    if model is None:
        return "is not known here"
    known = model.model_fields
    if "policy" in known and name in (*_POLICIES, "threshold"):
        policy = name if name in _POLICIES else "score"
        return f'is no member here: say policy: {{"{policy}": {_number(fault.get("input"))}}}'
    return f"is not known; known are {', '.join(known)}"


def _number(value: object) -> str:
    """The caller's number, for the hint; never another text of theirs."""
    try:
        return f"{float(value):.6g}" if isinstance(value, str | int | float) else "0.4"
    except (ValueError, OverflowError):
        return "0.4"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of `Model`, `Model | None`, `list[Model]` or an annotated one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in typing.get_args(annotation))), None)
