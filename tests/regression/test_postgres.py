"""Feast's join and registry in PostgreSQL, and ours: what a training row may know, and loads recorded at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from adin.connections import Connection
from adin.features import repo, store
from adin.features.offline_postgres import PostgresStore
from adin.problem import problem
from adin.settings import settings
from adin.window import Window
from judging import Judge
from servers import Servers, execute, fetched

SCRATCH = Path(__file__).parents[1] / "integration" / "scratch"
T = datetime(2021, 1, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WINDOW = Window.parse("2021-01-01", "2021-03-31")
TABLES = """
DROP SCHEMA IF EXISTS adin_scratch CASCADE;
CREATE SCHEMA adin_scratch;
CREATE TABLE adin_scratch.pair (a text, b text, value float8, note text, flag bool, event_timestamp timestamptz,
    created_timestamp timestamptz, day text);
CREATE TABLE adin_scratch.brief (LIKE adin_scratch.pair);
CREATE TABLE adin_scratch.fixed (n bigint, value bigint, event_timestamp timestamptz, created_timestamp timestamptz);
CREATE TABLE adin_scratch.events (id bigint, a text, b text, n bigint, factor float8, at timestamptz, late int,
    event_timestamp timestamptz, created_timestamp timestamptz, day text);
"""
Ask = Callable[..., list[tuple[int, float]]]


@pytest.fixture
def database(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """An offline store, and a feature repository and a problem that are joined from it."""
    conn = servers.database
    sign_in = f"{conn.login}:{conn.password}@{conn.host}:{conn.port}/{conn.schema}"
    where = {"offline": f"postgresql://{sign_in}", "registry": f"postgresql+psycopg://{sign_in}"}
    for name, value in {
        "ADIN_CONN_FEAST": Connection("feast", "127.0.0.1", 1, extra=where).uri,
        "ADIN_FEATURE_REPO": str(SCRATCH / "feature_repo"),
        "ADIN_PROBLEMS": str(SCRATCH / "problems"),
        "ADIN_OFFLINE_STORE": "postgres",
        "ADIN_CONN_AMVERSION": "",
    }.items():
        monkeypatch.setenv(name, value)
    forget()
    execute(conn, TABLES)
    yield conn
    forget()


def forget() -> None:
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture
def ask(whose: str, database: Connection, tmp_path: Path) -> Ask:
    """Return a function that puts feature rows into a table and gives the answer for two events: number and value."""

    def retrieved(rows: list[dict[str, Any]], *keys: dict[str, str]) -> list[tuple[int, float]]:
        for row in rows:
            put(database, "pair", {"note": "", **row, "day": f"{row['event_timestamp']:%Y-%m-%d}"})
        joined = by_feast if whose == "stock" else by_us
        return sorted(joined(database, tmp_path, list(keys)))

    return retrieved


def put(conn: Connection, table: str, row: dict[str, Any]) -> None:
    values = ", ".join(f"'{value}'" for value in row.values())
    execute(conn, f"INSERT INTO adin_scratch.{table} ({', '.join(row)}) VALUES ({values})")


def by_us(conn: Connection, _: Path, keys: list[dict[str, str]]) -> list[tuple[int, float]]:
    at = T + problem("joins").predict_before
    told = {"event_timestamp": at + HOUR / 2, "created_timestamp": at + HOUR / 2, "day": f"{at:%Y-%m-%d}"}
    for number, each in enumerate(keys):
        put(conn, "events", {"id": number, **each, "n": 0, "factor": 1, "at": at, "late": 1, **told})
    PostgresStore().training_set(problem("joins"), WINDOW, "adin_tmp.regression", "regression")
    return fetched(conn, "SELECT id, pair__value FROM adin_tmp.regression")


def by_feast(conn: Connection, folder: Path, keys: list[dict[str, str]]) -> list[tuple[int, float]]:
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Float64

    sign_in = {"host": conn.host, "port": conn.port, "user": conn.login, "password": conn.password}
    config = RepoConfig(
        project="bakery",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=None,
        offline_store={"type": "postgres", "database": conn.schema, "sslmode": "disable", **sign_in},
        entity_key_serialization_version=3,
    )
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    source = PostgreSQLSource(name="rows", query="SELECT * FROM adin_scratch.pair", **times)
    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in ("a", "b")]
    schema = [Field(name="value", dtype=Float64)]
    found = FeatureStore(config=config)
    found.apply([*entities, source, FeatureView(name="pair", entities=entities, schema=schema, source=source)])
    rows = pd.DataFrame([{"id": number, "event_timestamp": T, **each} for number, each in enumerate(keys)])
    answer = found.get_historical_features(rows, ["pair:value"]).to_df()
    return list(zip(answer["id"].tolist(), answer["value"].tolist(), strict=True))


def value(number: float, *, at: datetime = T - HOUR, created: datetime | None = None, **keys: str) -> dict[str, Any]:
    return {
        **(keys or {"a": "x", "b": "y"}),
        "value": number,
        "event_timestamp": at,
        "created_timestamp": created or at,
    }


@pytest.mark.flow(2, 3)
def test_composite_keys_that_read_alike_in_a_row_keep_their_own_values_in_postgres(ask: Ask, judge: Judge) -> None:
    one, other = {"a": "1", "b": "12"}, {"a": "11", "b": "2"}
    found = ask([value(1, **one), value(2, **other)], one, other)
    judge(found, right=[(0, 1.0), (1, 2.0)], stock=[(0, 1.0), (0, 2.0), (1, 1.0), (1, 2.0)])


@pytest.mark.flow(2, 3)
def test_feature_rows_of_one_time_never_repeat_a_training_row_in_postgres(ask: Ask, judge: Judge) -> None:
    judge(ask([value(1), value(1)], {"a": "x", "b": "y"}), right=[(0, 1.0)], stock=[(0, 1.0), (0, 1.0)])


@pytest.mark.flow(2, 3)
def test_a_value_created_after_the_prediction_time_is_not_used_in_postgres(ask: Ask, judge: Judge) -> None:
    rows = [value(1, at=T - 2 * HOUR), value(666, created=T + HOUR)]
    judge(ask(rows, {"a": "x", "b": "y"}), right=[(0, 1.0)], stock=[(0, 666.0)])


@pytest.mark.flow(4, 5, 9)
def test_of_two_loads_recorded_in_one_moment_none_is_lost(
    whose: str, database: Connection, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.infra.registry.sql import SqlRegistry

    monkeypatch.setenv("ADIN_PROJECT", f"once_{whose}")
    settings.cache_clear()
    store.apply("adin_scratch")
    days = [Window.parse(f"2021-01-0{n}", f"2021-01-0{n + 1}") for n in (1, 4)]

    def record(day: Window) -> None:
        if whose == "ours":
            store.record_interval("pair", day)
        else:
            feast = store.feature_store()
            view = feast.registry.get_feature_view("pair", feast.project)
            feast.registry.apply_materialization(view, feast.project, day.start, day.end)

    write, others = SqlRegistry._apply_object, [threading.Thread(target=record, args=(days[1],))]
    kept = list(others)

    def written(*args: Any, **kwargs: Any) -> Any:
        """Between what the first has read and what it writes, another records its load, if it is let."""
        if others:
            other = others.pop()
            other.start()
            other.join(3)
        return write(*args, **kwargs)

    monkeypatch.setattr(SqlRegistry, "_apply_object", written)
    record(days[0])
    kept[0].join(60)
    assert not others and not kept[0].is_alive()
    judge(store.intervals("pair"), right=days, stock=days[:1])
