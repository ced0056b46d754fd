"""Columns of a problem's table whose type changes from one dataset version to the next, in the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from adin.datasets import clickhouse as loader
from adin.errors import DataError
from clickhouse_server import ClickHouseServer

pytestmark = pytest.mark.flow(8)


@pytest.fixture
def client(clickhouse_server: ClickHouseServer) -> Iterator[Any]:
    with loader.clickhouse(clickhouse_server.connection) as found:
        yield found


def columns(kind: str) -> dict[str, str]:
    return {"event_timestamp": "Nullable(DateTime64(6, 'UTC'))", "value": kind}


@pytest.mark.parametrize(
    ("before", "after", "wide"),
    [
        ("Nullable(Int32)", "Nullable(Int64)", "Nullable(Int64)"),
        ("Nullable(Float64)", "Nullable(Int32)", "Nullable(Float64)"),
        ("Nullable(Int32)", "Nullable(Float64)", "Nullable(Float64)"),
    ],
)
def test_a_column_is_widened_and_keeps_what_it_holds(client: Any, before: str, after: str, wide: str) -> None:
    table = f"wide_{uuid4().hex[:8]}"
    loader._ensure_table(client, table, columns(before))
    client.command(f"INSERT INTO {table} VALUES ('2013-01-01 00:00:00', 2147483647, 'train', 'one')")
    for _ in range(2):
        loader._ensure_table(client, table, columns(after))
    assert loader._columns(client, table)["value"] == wide
    assert client.command(f"SELECT value FROM {table}") == 2147483647


@pytest.mark.parametrize(("before", "after"), [("Nullable(Int64)", "Nullable(Float64)"), ("Nullable(String)", "Int64")])
def test_a_change_that_would_lose_values_is_refused_and_changes_nothing(client: Any, before: str, after: str) -> None:
    table = f"narrow_{uuid4().hex[:8]}"
    loader._ensure_table(client, table, columns(before))
    with pytest.raises(DataError, match="value is Nullable"):
        loader._ensure_table(client, table, columns(after))
    assert loader._columns(client, table)["value"] == before
