"""The drift engine's tables in ClickHouse, and the one way rows get into them: staged, counted, exchanged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adin.connections import Connection, connection
from adin.datasets.clickhouse import STAGING, clickhouse, identifier, literal

REFERENCES, HISTOGRAMS, ALARMS, CHECKS = "drift_references", "drift_histograms", "drift_alarms", "drift_checks"
SERVED = "served_predictions"
_TABLES = {
    REFERENCES: "problem String, reference String, document String"
    ") ENGINE = MergeTree PARTITION BY (problem, reference) ORDER BY reference",
    HISTOGRAMS: "problem String, reference String, role LowCardinality(String), commit String, feature String, "
    "day Date, counts Array(UInt64), low Nullable(Float64), high Nullable(Float64)"
    ") ENGINE = MergeTree PARTITION BY (problem, reference, role, commit) ORDER BY (feature, day)",
    ALARMS: "problem String, kind LowCardinality(String), subject String, check LowCardinality(String), "
    "state LowCardinality(String), since Date, value Float64, limit Float64, report String, "
    "changed DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY (problem, kind, subject, check, changed)",
    SERVED: "problem LowCardinality(String), version UInt32, entity Array(String), event DateTime64(6, 'UTC'), "
    "prediction Float64, answered DateTime64(6, 'UTC')) ENGINE = MergeTree "
    "PARTITION BY toYYYYMM(answered) ORDER BY (problem, event) TTL toDateTime(answered) + INTERVAL 1 YEAR",
    CHECKS: "problem String, id String, reference String, commit String, until Date, active UInt32, "
    "checked DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY (problem, checked)",
}


class Store:
    """A client and the names of the tables in the connection's database."""

    def __init__(self, client: Any, database: str) -> None:
        self.client = client
        self.database = database

    def table(self, name: str) -> str:
        """Return the full, quoted name of a table."""
        return f"{identifier(self.database)}.{identifier(name)}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return [tuple(row) for row in self.client.query(query).result_rows]

    def columns(self, table: str) -> dict[str, str]:
        """Return the columns of a table, name to type without ``Nullable`` and ``LowCardinality``."""
        return {name: _bare(kind) for name, kind, *_ in self.rows(f"DESCRIBE TABLE {self.table(table)}")}

    def replace(
        self, table: str, partition: tuple[str, ...], key: str, select: str, whole: Callable[[str], None]
    ) -> None:
        """Make a partition hold what a SELECT gives, in one atomic step.

        :param key: names the staging table and the query, which a retry finds going instead of starting a second.
        :param whole: called with the staging table; raises if it is not all there.
        """
        staging = self.table(STAGING + re.sub(r"[^a-z0-9]", "_", key))
        self.client.command(f"DROP TABLE IF EXISTS {staging}")
        self.client.command(f"CREATE TABLE {staging} AS {self.table(table)}")
        try:
            statement = f"INSERT INTO {staging} {select}"
            self.client.command(statement, settings={"query_id": key, "max_query_size": 64 << 20})
            whole(staging)
            named = ", ".join(map(literal, partition))
            self.client.command(f"ALTER TABLE {self.table(table)} REPLACE PARTITION ({named}) FROM {staging}")
        except Exception:
            with suppress(Exception):  # the error that came first is the one to tell; a retry drops it too
                self.client.command(f"DROP TABLE IF EXISTS {staging}")
            raise
        self.client.command(f"DROP TABLE {staging}")


@contextmanager
def store(conn: Connection | None = None) -> Iterator[Store]:
    """Open the tables; they are made at first use."""
    conn = conn or connection("clickhouse")
    database = conn.schema or "default"
    with clickhouse(conn) as client:
        found = Store(client, database)
        client.command(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
        for name, columns in _TABLES.items():
            client.command(f"CREATE TABLE IF NOT EXISTS {found.table(name)} ({columns}")
        yield found


def _bare(kind: str) -> str:
    while match := re.fullmatch(r"(?:Nullable|LowCardinality)\((.*)\)", kind):
        kind = match[1]
    return kind
