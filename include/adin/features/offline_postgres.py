"""The offline store's PostgreSQL edition: one table a view, joined by the database.

Rows come in and go out as Arrow through ADBC, which speaks PostgreSQL's binary COPY.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from adin.connections import Connection, connection
from adin.errors import ConfigError, DataError, ServiceError
from adin.features import codec, hdfs, repo
from adin.features.offline import ROWS_A_FILE, Partition
from adin.settings import settings

if TYPE_CHECKING:
    from adin.features.repo import Service, View
    from adin.problem import Problem
    from adin.window import Window

#: Hive type -> type in PostgreSQL, type in Arrow.
_TYPES: dict[str, tuple[str, pa.DataType]] = {
    "string": ("text", pa.string()),
    "double": ("double precision", pa.float64()),
    "float": ("real", pa.float32()),
    "bigint": ("bigint", pa.int64()),
    "int": ("integer", pa.int32()),
    "smallint": ("smallint", pa.int16()),
    "boolean": ("boolean", pa.bool_()),
    "date": ("date", pa.date32()),
    "timestamp": ("timestamptz", pa.timestamp("us", "UTC")),
    "binary": ("bytea", pa.binary()),
}
_PARTITIONS = """
CREATE SCHEMA IF NOT EXISTS adin;
CREATE TABLE IF NOT EXISTS adin.partitions (
    "table" text, day text, fingerprint text NOT NULL, rows bigint NOT NULL, run_key text NOT NULL,
    PRIMARY KEY ("table", day)
)
"""


class PostgresStore:
    """See :class:`adin.features.offline.OfflineStore`."""

    code: tuple[Path, ...] = (Path(__file__),)

    def partitions(self, table: str) -> dict[str, Partition]:
        """Return the days that ``adin.partitions`` has of a table."""
        with session() as cursor:
            return _partitions(cursor, table)

    def publish(
        self, view: View, columns: Mapping[str, str], days: Mapping[str, Partition]
    ) -> tuple[list[str], list[str]]:
        """Replace the changed days in one transaction; a second publisher of the table waits."""
        with session() as cursor:
            cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext({_text('adin.partitions')}))")
            _run(cursor, _PARTITIONS)
            before = _partitions(cursor, view.table)
            new = sorted(day for day in days if day not in before)
            changed = sorted(day for day in days if day in before and before[day].fingerprint != days[day].fingerprint)
            _ensure_table(cursor, view, columns)
            if replaced := [*new, *changed]:
                _replace(cursor, view.table, columns, {day: days[day] for day in replaced})
        return new, changed

    def rows(self, view: View, days: list[str], columns: list[str]) -> Iterator[pa.Table]:
        """Return the rows by batches, day after day."""
        if not days:
            return
        chosen = ", ".join(map(quoted, columns))
        with session() as cursor:
            for day in days:
                cursor.execute(f"SELECT {chosen} FROM {quoted(view.table)} WHERE day = {_text(day)}")
                for batch in cursor.fetch_record_batch():
                    yield pa.Table.from_batches([batch])

    def training_set(self, spec: Problem, window: Window, table: str, key: str) -> dict[str, Any]:
        """Join by one statement: for each event the newest row of each view it could know."""
        service = repo.service(spec.domain, spec.features)
        with session(key) as cursor:
            check_tables(cursor, [*(view.table for view in service.views), spec.label.table])
            cursor.execute(f"SELECT count(*), count({quoted(spec.label.column)}) FROM ({_labels(spec, window)}) events")
            every, labelled = cursor.fetchone()
            if not labelled:
                raise DataError(
                    f"{spec.label.table} has no labelled row in {window}.", "Run the features DAG for the window."
                )
            identity = [name for name in _columns(cursor, spec.label.table) if name not in _OWN]
            cursor.execute("SET LOCAL work_mem = '64MB'")
            cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext({_text(settings().temp_database)}))")
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(table.partition('.')[0])}")
            cursor.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
            cursor.execute(f"CREATE TABLE {quoted(table)} AS {_join(spec, service, window, identity)}")
            made = json.dumps({"made": datetime.now(UTC).isoformat(), "key": key})
            cursor.execute(f"COMMENT ON TABLE {quoted(table)} IS {_text(made)}")
            cursor.execute(f"SELECT split, count(*) FROM {quoted(table)} GROUP BY split")
            rows = dict(cursor.fetchall())
            if sum(rows.values()) != labelled:
                raise DataError(f"The join made {sum(rows.values())} rows of {labelled} labelled rows.")
            found = _columns(cursor, table)
        order = [*(name for name in identity if name != spec.label.column), "event_timestamp"]
        chosen = [*order, *service.columns, spec.label.column]
        kinds = dict(service.on_demand_types())
        return {
            "table": table,
            "problem": spec.name,
            "rows": {split: rows.get(split, 0) for split in ("train", "validate", "test")},
            "dropped_unlabelled": every - labelled,
            "columns": {name: found.get(name) or kinds[name] for name in chosen},
        }

    def forget(self, key: str) -> None:
        """Nothing is kept of a join but its table, which the next one replaces."""

    def files(self, result: Mapping[str, Any]) -> list[tuple[str, Callable[[], bytes]]]:
        """Return the temporary table in parts, each read and encoded when it is asked for."""
        return [
            (f"split={split}/part-{part:05}.parquet", partial(_part, result, split, part))
            for split, rows in result["rows"].items()
            for part in range(-(-rows // ROWS_A_FILE))
        ]

    def temporary(self) -> dict[str, datetime]:
        """Return the tables of the temporary schema."""
        with session() as cursor:
            cursor.execute(
                "SELECT relname::text, obj_description(oid, 'pg_class') FROM pg_class WHERE relkind = 'r' "
                f"AND relnamespace = to_regnamespace({_text(settings().temp_database)})"
            )
            return {name: datetime.fromisoformat(json.loads(told)["made"]) for name, told in cursor.fetchall() if told}

    def drop(self, table: str) -> None:
        """Drop the table."""
        with session() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def address(conn: Connection) -> str:
    """Return the URL of PostgreSQL; :raises ConfigError: the connection ``feast`` has none."""
    if not conn.extra.get("offline"):
        raise ConfigError("The connection feast names no offline store.", "Add extra.offline; see docs/connections.md.")
    return str(conn.extra["offline"])


@contextmanager
def session(name: str = "adin", *, where: str = "") -> Iterator[Any]:
    """Open a transaction in UTC, committed at the block's end.

    :param name: application name, by which ``pg_stat_activity`` shows whose work it is.
    :param where: URL or connection string of PostgreSQL. Default that of the connection ``feast``.
    :raises ServiceError: PostgreSQL does not answer or refused.
    """
    import adbc_driver_manager as adbc
    from adbc_driver_postgresql import dbapi

    where = where or address(connection("feast"))
    try:
        with dbapi.connect(where) as conn, conn.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(f"SET application_name = {_text(name[-63:])}")
            cursor.execute("SET client_connection_check_interval = '5s'")  # a killed task's query ends with it
            yield cursor
            conn.commit()
    except adbc.Error as error:
        raise ServiceError(f"The offline store in PostgreSQL refused: {error}.", "Is it up?") from None


def _run(cursor: Any, script: str) -> None:
    for statement in filter(str.strip, script.split(";")):
        cursor.execute(statement)


def _partitions(cursor: Any, table: str) -> dict[str, Partition]:
    cursor.execute("SELECT to_regclass('adin.partitions') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return {}
    cursor.execute(
        f'SELECT day, fingerprint, rows, run_key FROM adin.partitions WHERE "table" = {_text(table)} ORDER BY day'
    )
    return {day: Partition("", fingerprint, rows, key) for day, fingerprint, rows, key in cursor.fetchall()}


def _columns(cursor: Any, table: str) -> dict[str, str]:
    """Return a table's columns with their types; none if there is no such table."""
    cursor.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = to_regclass({_text(quoted(table))}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return dict(cursor.fetchall())


def _ensure_table(cursor: Any, view: View, columns: Mapping[str, str]) -> None:
    """Create a table, or bring its columns to what the query gives now; old days have nulls in new columns."""
    unknown = {kind for kind in columns.values() if kind not in _TYPES}
    if unknown:
        raise ConfigError(
            f"{view.table} has columns of types {', '.join(sorted(unknown))}, unknown to the PostgreSQL edition.",
            f"Cast them in {view.name}.sql to one of {', '.join(_TYPES)}.",
        )
    wanted = {name: _TYPES[kind][0] for name, kind in columns.items()} | {"day": "text"}
    table, found = quoted(view.table), _columns(cursor, view.table)
    if not found:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(view.table.partition('.')[0])}")
        listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in wanted.items())
        cursor.execute(f"CREATE TABLE {table} ({listed})")
        cursor.execute(f"CREATE INDEX ON {table} (day)")
        if view.keys:
            order = [*map(quoted, view.keys), f"{quoted(view.event)} DESC", f"({_created(view)}) DESC"]
            cursor.execute(f"CREATE INDEX ON {table} ({', '.join(order)})")
        return
    steps = [f"DROP COLUMN {quoted(name)}" for name in found if name not in wanted]
    steps += [f"ADD COLUMN {quoted(name)} {kind}" for name, kind in wanted.items() if name not in found]
    steps += [
        f"ALTER COLUMN {quoted(name)} TYPE {kind} USING {quoted(name)}::{kind}"
        for name, kind in wanted.items()
        if found.get(name, kind) != {"timestamptz": "timestamp with time zone"}.get(kind, kind)
    ]
    if steps:
        cursor.execute(f"ALTER TABLE {table} {', '.join(steps)}")


def _replace(cursor: Any, table: str, columns: Mapping[str, str], days: Mapping[str, Partition]) -> None:
    listed = ", ".join(map(_text, days))
    schema = pa.schema([(name, _TYPES[kind][1]) for name, kind in columns.items()] + [("day", pa.string())])
    cursor.execute(f"CREATE TEMPORARY TABLE staged (LIKE {quoted(table)}) ON COMMIT DROP")
    reader = pa.RecordBatchReader.from_batches(schema, _staged(schema, days))
    cursor.adbc_ingest("staged", reader, mode="append", temporary=True)
    cursor.execute("SELECT day, count(*) FROM staged GROUP BY day")
    counted, expected = dict(cursor.fetchall()), {day: part.rows for day, part in days.items() if part.rows}
    if counted != expected:
        wrong = sorted(day for day in counted | expected if counted.get(day) != expected.get(day))
        raise DataError(
            f"The staged files of {table} hold {counted.get(wrong[0], 0)} rows of day {wrong[0]}; the job counted "
            f"{expected.get(wrong[0], 0)} ({len(wrong)} days differ).",
            "Clear the ingest task.",
        )
    names = ", ".join(map(quoted, schema.names))
    cursor.execute(f"DELETE FROM {quoted(table)} WHERE day IN ({listed})")
    cursor.execute(f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM staged")
    cursor.execute(f'DELETE FROM adin.partitions WHERE "table" = {_text(table)} AND day IN ({listed})')
    rows = pa.table(
        {
            "table": [table] * len(days),
            "day": list(days),
            "fingerprint": [part.fingerprint for part in days.values()],
            "rows": [part.rows for part in days.values()],
            "run_key": [part.run_key for part in days.values()],
        }
    )
    cursor.adbc_ingest("partitions", rows, mode="append", db_schema_name="adin")
    cursor.execute(f"ANALYZE {quoted(table)}")


def _staged(schema: pa.Schema, days: Mapping[str, Partition]) -> Iterator[pa.RecordBatch]:
    """Return the rows of staged Parquet files, one file at a time."""
    for day, part in days.items():
        if not part.rows:
            continue
        for path in hdfs.list_files(part.location):
            if path.endswith(".parquet"):
                table = pq.ParquetFile(pa.BufferReader(hdfs.read(path))).read()
                columns = [table[name] for name in schema.names[:-1]] + [pa.array([day] * table.num_rows)]
                yield from pa.table(columns, names=schema.names).cast(schema).combine_chunks().to_batches()


#: Columns of a label table that are not the event's own.
_OWN = ("event_timestamp", "created_timestamp", "day")


def _labels(spec: Problem, window: Window) -> str:
    """Return the query of the window's events whose label was known by its end."""
    event, end = quoted(spec.event_time), _time(window.end)
    waited = f"interval '{spec.label.known_after.total_seconds()} seconds'"
    return (
        f"SELECT * FROM {quoted(spec.label.table)} WHERE day BETWEEN '{window.days[0]}' AND '{window.days[-1]}' "
        f"AND {event} >= {_time(window.start)} AND {event} < {end} AND {event} <= {end} - {waited} "
        f"AND created_timestamp < {end}"
    )


def _join(spec: Problem, service: Service, window: Window, identity: list[str]) -> str:
    """Return the query of the training set: rows are numbered, so that each stands in one file, in one place."""
    validate, test = (_time(at) for at in spec.split.bounds(window.end))
    event, columns = quoted(spec.event_time), ", ".join(map(quoted, identity))
    asked = f"{event} - interval '{spec.predict_before.total_seconds()} seconds'"
    split = f"CASE WHEN {event} < {validate} THEN 'train' WHEN {event} < {test} THEN 'validate' ELSE 'test' END"
    events = (
        f"SELECT {columns}, {asked} AS event_timestamp, {split} AS split FROM ({_labels(spec, window)}) known "
        f"WHERE {quoted(spec.label.column)} IS NOT NULL"
    )
    order = ", ".join(["events.event_timestamp", *(f"events.{quoted(name)}" for name in identity)])
    number = f"row_number() OVER (PARTITION BY events.split ORDER BY {order}) - 1 AS _row"
    chosen = [(view, {name: f"{view.name}__{name}" for name, _ in view.features}) for view in service.views]
    return known(events, chosen, also=[number])


def known(
    events: str,
    chosen: Sequence[tuple[View, Mapping[str, str]]],
    *,
    at: str = "event_timestamp",
    also: Sequence[str] = (),
) -> str:
    """Return the query that gives each event, once, what of some views could be known at its time.

    :param events: query of the events, with the views' keys and the time.
    :param chosen: views, each with what is wanted of it: feature -> column of the answer.
    :param at: the events' column of the time. Default ``event_timestamp``.
    :param also: further expressions of ``events``. Default none.
    """
    values, views = [], []
    for place, (view, names) in enumerate(chosen):
        values += [f"seen{place}.{quoted(name)} AS {quoted(column)}" for name, column in names.items()]
        views.append(f"LEFT JOIN LATERAL ({_newest(view, at)}) seen{place} ON true")
    return "\n".join([f"SELECT {', '.join(['events.*', *values, *also])} FROM ({events}) events", *views])


def _newest(view: View, at: str) -> str:
    """Return the query of the newest row an event could know; ties have one answer, as :mod:`.ties` has it."""
    features = ", ".join(f"known.{quoted(name)}" for name, _ in view.features)
    event, created, asked = f"known.{quoted(view.event)}", _created(view, "known."), f"events.{quoted(at)}"
    limits = [f"known.{quoted(key)} = events.{quoted(key)}" for key in view.keys]
    limits += [f"{event} <= {asked}", f"{created} <= {asked}"]
    if view.ttl:
        limits.append(f"{event} >= {asked} - interval '{view.ttl.total_seconds()} seconds'")
    order = [f"{event} DESC", f"{created} DESC"]
    order += [f"known.{quoted(view.deleted)} IS TRUE DESC"] if view.deleted else []
    for name, kind in view.features:
        by_bytes = '::text COLLATE "C"' if kind == "String" else ""
        order.append(f"known.{quoted(name)}{by_bytes} DESC NULLS LAST")
    return (
        f"SELECT {features} FROM {quoted(view.table)} known WHERE {' AND '.join(limits)} "
        f"ORDER BY {', '.join(order)} LIMIT 1"
    )


def _created(view: View, of: str = "") -> str:
    """Return when a row was known: without a created time, from its event time on."""
    event, created = of + quoted(view.event), of + quoted(view.created)
    return event if created == event else f"coalesce({created}, {event})"


def check_tables(cursor: Any, tables: Iterable[str]) -> None:
    """Let pass tables that are there.

    :raises DataError: one is not.
    """
    for table in tables:
        if not _columns(cursor, table):
            domain = table.partition(".")[0]
            raise DataError(f"The offline store has no table {table}.", f"Run features__{domain} first.")


def _part(result: Mapping[str, Any], split: str, part: int) -> bytes:
    """Return one file of a training set, with its on-demand features."""
    from adin.problem import problem

    spec = problem(result["problem"])
    service = repo.service(spec.domain, spec.features)
    first = part * ROWS_A_FILE
    with session() as cursor:
        cursor.execute(
            f"SELECT * FROM {quoted(result['table'])} WHERE split = {_text(split)} "
            f"AND _row >= {first} AND _row < {first + ROWS_A_FILE} ORDER BY _row"
        )
        rows = cursor.fetch_arrow_table()
    if service.on_demand:
        asked = {name for view in service.on_demand for name in view.inputs.values()}
        frame = rows.append_column("prediction_time", rows["event_timestamp"]).select(sorted(asked)).to_pandas()
        made = repo.on_demand(frame, service.on_demand)
        for name, kind in service.on_demand_types():
            rows = rows.append_column(name, codec.cast(pa.array(made[name], from_pandas=True), kind, name=name))
    content = io.BytesIO()
    pq.write_table(rows.select(list(result["columns"])), content)
    return content.getvalue()


def quoted(name: str) -> str:
    """Return a quoted identifier, of a schema's table where there is a dot."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _time(at: datetime) -> str:
    return f"timestamptz '{at.isoformat()}'"
