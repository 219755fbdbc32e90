"""What an OpenAPI 3.1 document must hold for generators to read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9._-]+")
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def _references(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for name, inner in value.items():
                if name == "$ref" and isinstance(inner, str):
                    yield inner
                yield from _references(inner)
        case list():
            for inner in value:
                yield from _references(inner)


def check_openapi(document: dict[str, Any]) -> None:
    """Names of components, references, security, operation ids and path parameters fit together."""
    components = document["components"]
    for kind in components.values():
        for name in kind:
            assert _NAME.fullmatch(name), name
    for reference in _references(document):
        assert reference.startswith("#/"), reference
        place: Any = document
        for part in reference[2:].split("/"):
            assert part in place, reference
            place = place[part]
    ids = []
    for path, operations in document["paths"].items():
        assert operations.keys() <= _METHODS, path
        for operation in operations.values():
            ids.append(operation["operationId"])
            for wanted in operation.get("security", []):
                assert wanted.keys() <= components["securitySchemes"].keys()
            parameters = [(p["in"], p["name"]) for p in operation.get("parameters", [])]
            assert len(set(parameters)) == len(parameters), path
            in_path = {name for place, name in parameters if place == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path)), path
            assert operation["responses"]
            for answer in operation["responses"].values():
                assert answer["description"], path
    assert len(set(ids)) == len(ids)
