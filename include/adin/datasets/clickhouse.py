"""Dataset versions in ClickHouse, for exploration: each exactly once, moved by the engine itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adin.connections import Connection, connection
from adin.datasets.lake import Lake
from adin.datasets.versions import kept
from adin.errors import ConfigError, DataError, ServiceError
from adin.limits import Limits, guarded

#: Names of staging tables begin so.
STAGING = "stage_"
#: How the engine, or what stands before it, says that a password is wrong.
_DENIED = re.compile(r"code: 516|response code 40[13]|status 40[13]|AUTHENTICATION_FAILED", re.IGNORECASE)


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    :param rows: rows of the version by split, as counted in ClickHouse.
    :param loaded: False when the version was there already.
    """

    table: str
    commit: str
    rows: dict[str, int]
    loaded: bool


@contextmanager
def clickhouse(conn: Connection | None = None) -> Iterator[Any]:
    """Open a client with the limits of its connection and errors of ours.

    :raises ServiceError: the server is down, too slow, or refuses the statement.
    """
    conn = conn or connection("clickhouse")
    with guarded(conn):
        yield from _client(conn)


def _client(conn: Connection) -> Iterator[Any]:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import Error
    from clickhouse_connect.driver.httputil import get_pool_manager

    limits = Limits.of(conn)
    try:
        client = clickhouse_connect.get_client(
            host=conn.host,
            port=conn.port or 8123,
            username=conn.login,
            password=conn.password,
            interface=str(conn.extra.get("scheme", "http")),
            connect_timeout=limits.connect_timeout,
            # the engine says nothing while it copies
            send_receive_timeout=limits.read_timeout * 5,
            query_retries=limits.retries,
            pool_mgr=get_pool_manager(maxsize=limits.pool),
            compress=False,
        )
    except Error as error:
        if _DENIED.search(str(error)):
            raise ConfigError(
                f"ClickHouse at {conn.url}: {_safe(error)}.", "Check the connection clickhouse."
            ) from None
        raise ServiceError(f"ClickHouse at {conn.url} does not answer: {_safe(error)}.", "Is it up?") from None
    try:
        yield client
    except Error as error:
        raise ServiceError(f"ClickHouse at {conn.url} refused a statement: {_safe(error)}.") from None
    finally:
        client.close()


def load_clickhouse(
    problem: str, commit: str, key: str, *, conn: Connection | None = None, lake: Lake | None = None
) -> LoadReport:
    """Load a dataset version into ``<database>.<problem>``, partition = commit.

    The engine reads the Parquet files through lakeFS's S3 gateway into a staging table; when the counts agree with
    the manifest, the partition is exchanged in one atomic step. Loading a version twice changes nothing.

    :param key: run key; becomes the query id and names the staging table.
    :raises DataError: ClickHouse counted other rows than the manifest; nothing was made visible.
    """
    conn = conn or connection("clickhouse")
    lake = lake or Lake()
    found = kept(problem, commit, lake=lake)
    database = conn.schema or "default"
    table = f"{identifier(database)}.{identifier(problem)}"
    staging = f"{identifier(database)}.{identifier(STAGING + re.sub(r'[^a-z0-9]', '_', key))}"
    expected = {split: rows for split, rows in found.rows.items() if rows}
    with clickhouse(conn) as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
        source = _source(lake, found.commit)
        columns = _columns(client, source)
        _ensure_table(client, table, columns)
        if _counts(client, table, found.commit) == expected:
            return LoadReport(table, found.commit, expected, loaded=False)
        _kill(client, key)  # of a try whose process died: it would go on filling the staging table
        client.command(f"DROP TABLE IF EXISTS {staging}")
        client.command(f"CREATE TABLE {staging} AS {table}")
        try:
            listed = ", ".join(map(identifier, columns))
            client.command(
                f"INSERT INTO {staging} ({listed}, split, _commit) "
                f"SELECT {listed}, extract(_path, 'split=([a-z]+)'), '{found.commit}' FROM {source}",
                settings={"query_id": key, "use_hive_partitioning": 0},
            )
            counted = _counts(client, staging, found.commit)
            if counted != expected:
                raise DataError(f"ClickHouse read {counted} rows of {commit[:12]}, its manifest says {expected}.")
            client.command(f"ALTER TABLE {table} REPLACE PARTITION '{found.commit}' FROM {staging}")
        except BaseException:
            with suppress(Exception), clickhouse(conn) as other:  # the first error is the one to tell; a retry cleans
                _kill(other, key)
                other.command(f"DROP TABLE IF EXISTS {staging}")
            raise
        client.command(f"DROP TABLE {staging}")
    return LoadReport(table, found.commit, expected, loaded=True)


def planned(problem: str, commit: str, *, conn: Connection | None = None, lake: Lake | None = None) -> dict[str, Any]:
    """Return what a load would do: the rows a version has by split, and those ClickHouse has of it by now."""
    conn = conn or connection("clickhouse")
    found = kept(problem, commit, lake=lake or Lake())
    table = f"{identifier(conn.schema or 'default')}.{identifier(problem)}"
    with clickhouse(conn) as client:
        there = _counts(client, table, found.commit) if client.command(f"EXISTS TABLE {table}") else {}
    return {"table": table, "commit": found.commit, "rows": found.rows, "there": there}


def drop(problem: str, commit: str, *, conn: Connection | None = None) -> None:
    """Take a dataset version out of ClickHouse; no error if it is not there."""
    conn = conn or connection("clickhouse")
    database = conn.schema or "default"
    with clickhouse(conn) as client:
        if client.command(f"EXISTS TABLE {identifier(database)}.{identifier(problem)}"):
            client.command(f"ALTER TABLE {identifier(database)}.{identifier(problem)} DROP PARTITION {literal(commit)}")


def staged(*, conn: Connection | None = None) -> dict[str, datetime]:
    """Return the staging tables of loads that go, or died, with the times they were made."""
    conn = conn or connection("clickhouse")
    query = (
        "SELECT name, toUnixTimestamp(metadata_modification_time) FROM system.tables "
        f"WHERE database = {literal(conn.schema or 'default')} AND startsWith(name, '{STAGING}')"
    )
    with clickhouse(conn) as client:
        return {str(name): datetime.fromtimestamp(made, UTC) for name, made in client.query(query).result_rows}


def drop_staged(table: str, *, conn: Connection | None = None) -> None:
    """Drop a staging table; no error if it is gone."""
    conn = conn or connection("clickhouse")
    with clickhouse(conn) as client:
        client.command(f"DROP TABLE IF EXISTS {identifier(conn.schema or 'default')}.{identifier(table)}")


def _kill(client: Any, key: str) -> None:
    client.command(f"KILL QUERY WHERE query_id = {literal(key)} SYNC")


def _ensure_table(client: Any, table: str, columns: dict[str, str]) -> None:
    """Create the problem's table, or add the columns that this version brings, and widen those whose type has grown.

    :raises DataError: a column has changed to a type that cannot hold what is there, or the other way round.
    """
    declared = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items())
    client.command(
        f"CREATE TABLE IF NOT EXISTS {table} ({declared}, split LowCardinality(String), _commit String) "
        "ENGINE = MergeTree PARTITION BY _commit ORDER BY (split, event_timestamp) SETTINGS allow_nullable_key = 1"
    )
    known = _columns(client, table)
    new = {name: kind for name, kind in columns.items() if name not in known}
    if new:
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {identifier(name)} {kind}" for name, kind in new.items())
        client.command(f"ALTER TABLE {table} {added}")
    for name, kind in columns.items():
        if name in known and (wide := _wider(client, table, name, known[name], kind)) != known[name]:
            client.command(f"ALTER TABLE {table} MODIFY COLUMN {identifier(name)} {wide}")


def _wider(client: Any, table: str, name: str, known: str, kind: str) -> str:
    """Return the type that holds the values of two; an insert would cast them without a word."""
    from clickhouse_connect.driver.exceptions import DatabaseError

    if known == kind:
        return known
    both = ", ".join(f"defaultValueOfTypeName({literal(each)})" for each in (known, kind))
    try:
        wide = str(client.query(f"SELECT toTypeName([{both}])").result_rows[0][0]).removeprefix("Array(")[:-1]
    except DatabaseError:
        wide = ""
    if not wide or wide.startswith("Variant("):
        raise DataError(
            f"{table}: column {name} is {known}, and {kind} in this version: no type holds both.",
            f"Give the feature another name, or drop {table} and load the versions anew.",
        )
    return wide


def _columns(client: Any, source: str) -> dict[str, str]:
    """Return the columns of a table or table function, name to type."""
    rows = client.query(f"DESCRIBE TABLE {source}", settings={"use_hive_partitioning": 0}).result_rows
    return {row[0]: row[1] for row in rows}


def _counts(client: Any, table: str, commit: str) -> dict[str, int]:
    query = f"SELECT split, count() FROM {table} WHERE _commit = '{commit}' GROUP BY split"
    return {str(split): int(rows) for split, rows in client.query(query).result_rows}


def _source(lake: Lake, commit: str) -> str:
    address = f"{lake.connection.url}/{lake.repository}/{commit}/data/*/*.parquet"
    login, password = literal(lake.connection.login), literal(lake.connection.password)
    return f"s3({literal(address)}, {login}, {password}, 'Parquet')"


def identifier(name: str) -> str:
    """Return the quoted name of a table or column; :raises ConfigError: it is none."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"{name!r} is no name for a ClickHouse table or column.")
    return f"`{name}`"


def literal(value: str) -> str:
    """Return a text as a literal of a statement."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _safe(error: Exception) -> str:
    """Return the error's text without the credentials of an ``s3()`` call."""
    return re.sub(r"s3\([^)]*\)", "s3(...)", str(error))[:500]
