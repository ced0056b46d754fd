"""What the answers that were given cost, by the labels in a real ClickHouse engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from adin.connections import Connection
from adin.drift import realised
from adin.drift.realised import Served
from adin.drift.tables import store
from adin.errors import DataError
from adin.problem import problem
from clickhouse_server import ClickHouseServer

pytestmark = pytest.mark.flow(15)
NAME = "flights_delay"
AT = datetime(2013, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def conn(clickhouse_server: ClickHouseServer, request: pytest.FixtureRequest) -> Connection:
    return replace(clickhouse_server.connection, schema=f"realised_{abs(hash(request.node.name)) % 10**8}")


def micros(hours: float) -> int:
    return int((AT + timedelta(hours=hours)).timestamp() * 1e6)


def flight(number: int) -> tuple[str, str, str]:
    """Values of the entity keys, in the order of the feature service."""
    return ("JFK", "UA", f"N{number}")


def dataset(conn: Connection, flights: int, commit: str = "c1", *, keys: str = "origin, carrier, tailnum") -> None:
    """A table of a dataset version: flight n departs n hours after noon, and every other one is late."""
    with store(conn) as tables:
        columns = ", ".join(f"{key} Nullable(String)" for key in keys.split(", "))
        tables.client.command(
            f"CREATE TABLE IF NOT EXISTS {tables.table(NAME)} ({columns}, scheduled_departure "
            "Nullable(DateTime64(6, 'UTC')), late_15 Nullable(Int32), _commit String) ENGINE = MergeTree ORDER BY ()"
        )
        for n in range(flights):
            values = ", ".join(f"'{value}'" for value in flight(n)[: len(keys.split(", "))])
            tables.client.command(
                f"INSERT INTO {tables.table(NAME)} VALUES ({values}, fromUnixTimestamp64Micro({micros(n)}, 'UTC'), "
                f"{n % 2}, '{commit}')"
            )


def losses(conn: Connection, commit: str = "c1", since: datetime = AT - timedelta(days=1)) -> list[dict]:
    with store(conn) as tables:
        return realised.measured(tables, problem(NAME), commit, since)


def test_the_loss_of_given_answers_is_told_by_day_and_version_for_those_with_a_label(conn: Connection) -> None:
    dataset(conn, 24)
    dataset(conn, 3, "older")
    answers = [Served(1 if n < 20 else 2, flight(n), micros(n), 0.25) for n in range(24)]
    answers.append(Served(1, flight(99), micros(0), 0.9))  # nobody knows yet how it went
    answers.append(Served(1, flight(1), micros(1.5), 0.9))  # another departure
    realised.keep(NAME, answers, conn)
    realised.keep("another_problem", answers, conn)
    found = losses(conn)
    assert [(each["day"], each["version"], each["rows"]) for each in found] == [
        ("2013-11-01", 1, 12),
        ("2013-11-02", 1, 8),
        ("2013-11-02", 2, 4),
    ]
    half = -(np.log(0.25) + np.log(0.75)) / 2
    assert [each["loss"] for each in found] == pytest.approx([half] * 3)
    assert {each["metric"] for each in found} == {"log_loss"}
    assert [each["day"] for each in losses(conn, since=AT + timedelta(hours=12))] == ["2013-11-02", "2013-11-02"]


def test_without_answers_or_labels_nothing_is_told(conn: Connection) -> None:
    dataset(conn, 1)
    assert losses(conn) == []
    realised.keep(NAME, [Served(1, flight(7), micros(7), 0.5)], conn)
    assert losses(conn) == []


def test_a_dataset_without_the_keys_is_refused_with_the_column(conn: Connection) -> None:
    dataset(conn, 1, keys="origin, carrier")
    with pytest.raises(DataError, match="has no tailnum"):
        losses(conn)


def test_a_key_with_quotes_is_kept_as_it_is(conn: Connection) -> None:
    odd = ("O'Hare\\", "a', 'b", "N1")
    realised.keep(NAME, [Served(1, odd, micros(0), 0.5)], conn)
    with store(conn) as tables:
        assert tables.rows(f"SELECT entity FROM {tables.table('served_predictions')}") == [(list(odd),)]
