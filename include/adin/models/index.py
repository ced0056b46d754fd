"""The tables of the database edition that are searched: written beside the log, or anew from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from adin.models.log import Entry, VersionState, manifest_digests
from adin.models.manifest import ModelManifest
from adin.models.record import Record
from adin.models.search import Query
from adin.models.tables import HEADS, LOG, MANIFESTS, METRICS, VERSIONS

_STEP = sa.text("""
WITH written AS (
    INSERT INTO log (model, seq, event, version, time, document)
    VALUES (:model, :seq, :event, :version, :time, :document) ON CONFLICT DO NOTHING RETURNING seq
), moved AS (
    UPDATE head SET seq = :seq FROM written WHERE head.model = :model AND head.seq = :seq - 1 RETURNING head.seq
), changed AS (
    UPDATE version SET state = given.state
    FROM moved, unnest(CAST(:numbers AS int[]), CAST(:states AS text[])) AS given (number, state)
    WHERE version.model = :model AND version.number = given.number AND version.state <> given.state
)
SELECT seq FROM written
""")


def step(record: Record, states: Mapping[int, VersionState]) -> Any:
    """Return the statement that writes a log entry which is neither a log's first nor a registration, and what it
    changes; one round trip. It returns a row if the number was free.

    :param states: state of each version the entry touches, after it.
    """
    row = record.model_dump(include={"model", "seq", "event", "version", "time"})
    return _STEP.bindparams(**row, document=record.document, numbers=list(states), states=list(states.values()))


def follow(connection: sa.Connection, records: Sequence[Record], states: Mapping[int, VersionState]) -> None:
    """Write what log entries change; nothing where the tables do not know the entries before.

    :param states: state of each version the entries touch, after them.
    """
    model, first, last = records[0].model, records[0].seq, records[-1].seq
    if model.startswith("."):
        return
    if first == 1:
        head: Any = postgresql.insert(HEADS).values(model=model, seq=last).on_conflict_do_nothing()
    else:
        head = sa.update(HEADS).where(HEADS.c.model == model, HEADS.c.seq == first - 1).values(seq=last)
    if not connection.execute(head).rowcount:
        return
    digests = manifest_digests(record for record in records if isinstance(record, Entry))
    if digests:
        _insert(connection, model, _manifests(connection, model, digests), states)
    if old := [(number, state) for number, state in states.items() if number not in digests]:
        given = sa.values(sa.column("number", sa.Integer), sa.column("state", sa.Text), name="given").data(old)
        mine = sa.and_(VERSIONS.c.model == model, VERSIONS.c.number == given.c.number)
        connection.execute(sa.update(VERSIONS).where(mine).values(state=given.c.state))


def rebuild(
    connection: sa.Connection,
    model: str,
    seq: int,
    versions: Mapping[int, ModelManifest],
    states: Mapping[int, VersionState],
) -> None:
    """Write all of a model anew.

    :param seq: last log entry that the states include.
    """
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(model))))
    if (connection.scalar(sa.select(HEADS.c.seq).where(HEADS.c.model == model)) or 0) >= seq:
        return
    for table in (VERSIONS, METRICS, HEADS):
        connection.execute(sa.delete(table).where(table.c.model == model))
    connection.execute(sa.insert(HEADS).values(model=model, seq=seq))
    _insert(connection, model, versions, states)


def behind(query: Query) -> Any:
    """Return the statement for the models asked for whose log has entries the tables do not know of."""
    newest = LOG.alias()
    last = sa.select(sa.func.max(newest.c.seq)).where(newest.c.model == LOG.c.model).scalar_subquery()
    return (
        sa.select(LOG.c.model)
        .outerjoin(HEADS, HEADS.c.model == LOG.c.model.collate("C"))
        .where(LOG.c.seq == 1, ~LOG.c.model.startswith("."), _named(LOG.c.model, query))
        .where(sa.func.coalesce(HEADS.c.seq, 0) < last)
    )


def select(query: Query) -> Any:
    """Return the statement for a page of what is asked for, and one row more."""
    v = VERSIONS
    tables: Any = v
    metrics = {}
    ordered = [] if query.key in ("model", "created") else [query.key]
    for name in {*query.metrics, *ordered}:
        table = metrics[name] = METRICS.alias()
        tables = tables.join(
            table,
            sa.and_(
                table.c.model == v.c.model,
                table.c.number == v.c.number,
                table.c.name == name,
                table.c.split == query.split,
                table.c.slice == query.slice_,
            ),
        )
    keys: dict[str, Any] = {"model": sa.literal(None), "created": v.c.created}
    key = keys[query.key] if query.key in keys else metrics[query.key].c.value
    number = v.c.number.desc() if query.descending and query.key == "model" else v.c.number
    value = [] if query.key == "model" else [key.desc() if query.descending else key]
    wanted = [*_wanted(query), *_bounds(query, metrics), *_behind_page(query, key)]
    statement = sa.select(v.c.model, v.c.number, key).select_from(tables).where(*wanted)
    return statement.order_by(*value, v.c.model, number).limit(query.limit + 1)


def _wanted(query: Query) -> list[Any]:
    v = VERSIONS.c
    asked: dict[str, Callable[[], Any]] = {
        "state": lambda: v.state == query.state,
        "dataset": lambda: v.dataset.startswith(query.dataset, autoescape=True),
        "owner": lambda: v.owner == query.owner,
        "feature": lambda: v.features.contains([query.feature]),
        "tags": lambda: v.tags.contains(dict(query.tags)),
        "since": lambda: v.created >= query.since,
        "until": lambda: v.created < query.until,
    }
    return [_named(v.model, query), *(made() for name, made in asked.items() if getattr(query, name))]


def _bounds(query: Query, metrics: Mapping[str, Any]) -> list[Any]:
    low = [metrics[name].c.value >= low for name, (low, _) in query.metrics.items() if low is not None]
    return low + [metrics[name].c.value <= high for name, (_, high) in query.metrics.items() if high is not None]


def _behind_page(query: Query, key: Any) -> list[Any]:
    before, v = query.place(), VERSIONS.c
    if before is None:
        return []
    later = sa.or_(v.model > before.model, sa.and_(v.model == before.model, v.number > before.number))
    if before.key is None:
        down = sa.and_(v.model == before.model, v.number < before.number)
        return [sa.or_(v.model > before.model, down) if query.descending else later]
    further = key < before.key if query.descending else key > before.key
    return [sa.or_(further, sa.and_(key == before.key, later))]


def _named(column: Any, query: Query) -> Any:
    if "*" not in query.model:
        return column == query.model
    pattern = query.model.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%").replace("*", "%")
    return column.like(pattern, escape="\\")


def _manifests(connection: sa.Connection, model: str, digests: Mapping[int, str]) -> dict[int, ModelManifest]:
    query = sa.select(MANIFESTS.c.sha256, MANIFESTS.c.document)
    mine = query.where(MANIFESTS.c.model == model, MANIFESTS.c.sha256.in_(digests.values()))
    found = dict(connection.execute(mine).all())
    return {number: ModelManifest.read(found[digest].encode(), digest) for number, digest in digests.items()}


def _insert(
    connection: sa.Connection,
    model: str,
    versions: Mapping[int, ModelManifest],
    states: Mapping[int, VersionState],
) -> None:
    if not versions:
        return
    rows = [
        {
            "model": model,
            "number": number,
            "state": states[number],
            **manifest.model_dump(include={"dataset", "owner", "created", "tags"}),
            "features": list(manifest.features),
        }
        for number, manifest in versions.items()
    ]
    metrics = [
        {"model": model, "number": number, "name": name, "split": split, "slice": slice_, "value": value}
        for number, manifest in versions.items()
        for split, slices in manifest.metrics.items()
        for slice_, values in slices.items()
        for name, value in values.items()
        if value is not None
    ]
    connection.execute(sa.insert(VERSIONS), rows)
    if metrics:
        connection.execute(sa.insert(METRICS), metrics)
