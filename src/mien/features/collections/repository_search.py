"""Short reads on a plain session (`Database.query`): two or three for a search, pages for a rebuild."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, String, and_, bindparam, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from mien.backends.sql.base import KEPT
from mien.backends.vectors.base import Change
from mien.features.collections.records import Collection, Facts, Filters
from mien.features.collections.repository import collection_named
from mien.features.collections.tables import FaceRow
from mien.kit.tenant import TenantId

F = FaceRow
_IN = 5000
"""Values of one IN list; SQLite takes 32,766 parameters in a statement, asyncpg 32,767."""

MatchRow = tuple[UUID, UUID | None, str | None, Facts]
"""What a match shows of a live face: id, person, external id, metadata."""


def open_collection(
    session: Session, tenant: TenantId, name: str, filters: Filters, most: int
) -> tuple[Collection, NDArray[np.int64] | None]:
    """The collection as it stands, and the labels that the filters leave (at most `most`; None without
    filters). NotFound if there is no such collection."""
    collection = collection_named(session, tenant, name)
    if filters.empty:
        return collection, None
    query = select(F.label).where(F.tenant_id == tenant, F.collection_id == collection.id)
    if filters.external_image_ids:
        query = query.where(F.external_image_id.in_(filters.external_image_ids))
    if filters.person_ids:
        query = query.where(F.person_id.in_(filters.person_ids))
    for key, value in filters.facts.items():
        query = query.where(_member(key, value))
    rows = session.execute(query.order_by(F.label).limit(most))
    return collection, np.fromiter((row[0] for row in rows), dtype=np.int64)


# Built once: putting a statement together takes longer than SQLite takes to answer it.
_MATCHES = (
    select(F.label, F.id, F.person_id, F.external_image_id, F.facts)
    .where(
        F.tenant_id == bindparam("tenant"),
        F.collection_id == bindparam("collection"),
        F.label.in_(bindparam("labels", expanding=True)),
    )
    .execution_options(**{KEPT: True})
)


def match_rows(
    session: Session, tenant: TenantId, collection: UUID, labels: Sequence[int]
) -> dict[int, MatchRow]:
    """The live faces among these labels."""
    found: dict[int, MatchRow] = {}
    for start in range(0, len(labels), _IN):
        rows = session.execute(
            _MATCHES,
            {"tenant": tenant, "collection": collection, "labels": labels[start : start + _IN]},
        )
        for label, id_, person, external, facts in rows.all():
            found[label] = (id_, person, external, facts)
    return found


def vectors_after(
    session: Session, tenant: TenantId, collection: UUID, label: int, head: int, limit: int
) -> list[Change]:
    """An add for each of the next live faces up to change `head`, in order of label."""
    rows = session.execute(
        select(F.label, F.embedding)
        .where(F.tenant_id == tenant, F.collection_id == collection, F.label > label, F.label <= head)
        .order_by(F.label)
        .limit(limit)
    )
    return [Change(found, found, np.frombuffer(raw, dtype="<f4")) for found, raw in rows]


class _KindOf(FunctionElement[str]):
    """The JSON type of a member, in the dialect's own words. Arguments: the column and the key."""

    type = String()
    inherit_cache = True


@compiles(_KindOf, "sqlite")
def _kind_in_sqlite(element: _KindOf, compiler: SQLCompiler, **options: Any) -> str:
    column, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_type({column}, '$.\"' || {key} || '\"')"


@compiles(_KindOf, "postgresql")
def _kind_in_postgresql(element: _KindOf, compiler: SQLCompiler, **options: Any) -> str:
    column, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_typeof({column} -> {key})"


def _member(key: str, value: str | float | bool) -> ColumnElement[bool]:
    """The member `key` of the metadata equals `value`, by JSON type: 7, "7" and true all differ."""
    member: Any = F.facts[key]
    kinds: tuple[str, ...]
    same: ColumnElement[bool]
    match value:
        case bool():
            kinds, same = ("true", "false", "boolean"), member.as_boolean() == value
        case str():
            kinds, same = ("text", "string"), member.as_string() == value
        case _:
            kinds, same = ("integer", "real", "number"), member.as_float() == float(value)
    return and_(_KindOf(F.facts, literal(key, String())).in_(kinds), same)
