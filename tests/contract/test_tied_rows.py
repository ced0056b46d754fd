"""Rows with the same key and times, mixed with others: training and serving take the one the oracle takes."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.features import codec, online
from adin.features.repo import View
from adin.features.writer import Newest, newest
from adin.settings import ROOT, settings
from adin.window import Window
from oracle import ARROW, FEATURES, KEYS, all_cases, last, plain, weight
from redis_server import RedisServer
from spark_session import spark_session

if TYPE_CHECKING:  # the ML environment has no pyspark
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.flow(2, 3, 9)
SEEDS = range(3)
VIEW = View(
    name="pair",
    table="",
    keys=("a", "b"),
    features=(("value", "Float64"), ("note", "String"), ("flag", "Bool")),
    key_types=(("a", "String"), ("b", "String")),
)
KINDS = {"a": "string", "b": "string", "value": "double", "note": "string", "flag": "boolean"}
TIMES = {name: pa.timestamp("us", "UTC") for name in ("event_timestamp", "created_timestamp")}
SCHEMA = pa.schema({name: ARROW[kind] for name, kind in KINDS.items()} | TIMES)


def shuffled(seed: int) -> pa.Table:
    """The oracle's rows of the view, in an order of chance."""
    rows = all_cases(seed)[0]["pair"]
    return pa.Table.from_pylist(random.Random(seed).sample(rows, len(rows)), SCHEMA)


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of each entity."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["a"] is not None and row["b"] is not None:
            found.setdefault((row["a"], row["b"]), []).append(row)
    return found


def expected(table: pa.Table, view: View = VIEW) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What the oracle takes of each entity once all is known."""
    found = {}
    for key, rows in by_key(table.to_pylist()).items():
        best = last(rows, "pair", view.deleted or None)
        found[key] = tuple(best[name] for name in FEATURES["pair"])
    return found


def weighed(answers: dict[tuple[str, str], tuple[Any, ...]]) -> dict[tuple[str, str], list[Any]]:
    """Answers that can be compared: NaN differs from itself."""
    return {key: [weight(value) for value in values] for key, values in answers.items()}


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.ask("FLUSHALL")
    yield redis_server
    settings.cache_clear()


def stored(redis: RedisServer, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What is online of some entities, and of no other."""
    content = {key: fields for key, fields in redis.content().items() if b"_ts:pair" in fields}
    found = {}
    for key in keys:
        types = {name: ("String", value) for name, value in zip(KEYS["pair"], key, strict=True)}
        fields = content.pop(codec.entity_key(types, "bakery"))
        found[key] = plain(
            codec.decode([fields[codec.field_name("pair", name)]], kind)[0] for name, kind in VIEW.features
        )
    assert not content
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("waiting", [100, 10_000], ids=["in pieces", "at once"])
def test_a_load_in_one_process_takes_the_oracles_row(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, seed: int, waiting: int
) -> None:
    monkeypatch.setattr("adin.features.writer._WAITING", waiting)
    table, wanted = shuffled(seed), expected(shuffled(seed))

    def write(rows: pa.Table) -> None:
        online.write(VIEW, rows, conn=redis.connection, project="bakery")

    loaded = Newest(VIEW, write)
    for start in range(0, len(table), 50):
        loaded.add(table.slice(start, 50))
    loaded.finish()
    assert stored(redis, wanted) == {key: plain(values) for key, values in wanted.items()}
    replayed = newest(VIEW, table).to_pylist()
    found = {(row["a"], row["b"]): tuple(row[name] for name in FEATURES["pair"]) for row in replayed}
    assert weighed(found) == weighed(wanted)


def test_a_load_that_may_hold_few_rows_takes_the_oracles_row_too(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_ONLINE_HELD", "3")
    monkeypatch.setattr("adin.features.writer._WAITING", 20)
    monkeypatch.setattr("adin.features.writer._MOST", 100)
    settings.cache_clear()
    rows, wanted = shuffled(0).to_pylist(), expected(shuffled(0))
    handed: list[int] = []

    def write(table: pa.Table) -> None:
        handed.append(len(table))
        online.write(VIEW, table, conn=redis.connection, project="bakery")

    loaded = Newest(VIEW, write)
    days = sorted({row["event_timestamp"].date() for row in rows}, reverse=True)
    for day in days:
        some = pa.Table.from_pylist([row for row in rows if row["event_timestamp"].date() == day], SCHEMA)
        for start in range(0, len(some), 15):
            loaded.add(some.slice(start, 15))
    loaded.finish()
    assert len(handed) > 3
    assert stored(redis, wanted) == {key: plain(values) for key, values in wanted.items()}


def test_a_load_holds_no_more_than_four_times_what_it_may_also_of_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIN_ONLINE_HELD", "3")
    monkeypatch.setattr("adin.features.writer._WAITING", 5)
    settings.cache_clear()
    handed: list[int] = []
    loaded = Newest(VIEW, lambda table: handed.append(len(table)))
    at = datetime(2013, 7, 1, tzinfo=UTC)
    times = {"event_timestamp": at, "created_timestamp": at}
    for n in range(0, 100, 5):
        loaded.add(pa.Table.from_pylist([{"a": "x", "b": str(n + more), **times} for more in range(5)], SCHEMA))
    loaded.finish()
    assert sum(handed) == 100 and max(handed) <= 30


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_SPARK", "spark://?namenode=hdfs%3A%2F%2F127.0.0.1%3A1")
        with spark_session(tmp_path_factory.mktemp("warehouse"), partitions=2) as session:
            yield session


def frame(spark: SparkSession, table: pa.Table, folder: Path) -> DataFrame:
    pq.write_table(table, folder / "rows.parquet")
    return spark.read.parquet(str(folder / "rows.parquet"))


@pytest.mark.parametrize("view", [VIEW, replace(VIEW, deleted="flag")], ids=["plain", "with deleted rows"])
def test_spark_puts_the_oracles_row_online_and_both_its_joins_give_it_to_training(
    redis: RedisServer, spark: SparkSession, tmp_path: Path, view: View
) -> None:
    from adin.features import point_in_time, spark_online

    table, wanted = shuffled(0), expected(shuffled(0), view)
    rows = frame(spark, table, tmp_path)
    spark_online.write(rows, view, redis.connection, "bakery")
    online_now = {key: values for key, values in wanted.items() if not view.deleted or values[2] is not True}
    assert stored(redis, online_now) == {key: plain(values) for key, values in online_now.items()}
    now = datetime(2022, 1, 1, tzinfo=UTC)
    asked = [(*key, now) for key in wanted]
    entities = spark.createDataFrame(asked, "a string, b string, prediction_time timestamp")
    for names in (FEATURES["pair"], ["note"]):
        expected_of = {
            key: tuple(compress(values, (n in names for n in FEATURES["pair"]))) for key, values in wanted.items()
        }
        features = [f"pair__{name}" for name in names]
        for joined in (
            point_in_time.by_sorting(entities, rows, view, at="prediction_time", answers={"pair": names}),
            point_in_time.in_memory(entities, [(view, rows)], at="prediction_time", answers={"pair": names}),
        ):
            assert joined.columns == [*entities.columns, *features], "no other crosses to Python or is kept"
            found = joined.toArrow().to_pylist()
            assert len(found) == len(wanted)
            answers = {(row["a"], row["b"]): tuple(row[name] for name in features) for row in found}
            assert weighed(answers) == weighed(expected_of)


def test_a_feature_that_its_table_writes_in_another_case_is_trained_on(spark: SparkSession, tmp_path: Path) -> None:
    from adin.features import point_in_time

    view = replace(VIEW, features=(("Value", "Float64"),))
    at = datetime(2021, 1, 1, tzinfo=UTC)
    rows = pa.table(
        {"a": ["x"], "b": ["y"], "value": [1.5], **dict.fromkeys(TIMES, pa.array([at], pa.timestamp("us", "UTC")))}
    )
    entities = spark.createDataFrame([("x", "y", at)], "a string, b string, prediction_time timestamp")
    views = [(view, frame(spark, rows, tmp_path))]
    for joined in (
        point_in_time.by_sorting(entities, views[0][1], view, at="prediction_time"),
        point_in_time.in_memory(entities, views, at="prediction_time"),
    ):
        assert joined.toArrow()["pair__Value"].to_pylist() == [1.5]


def test_of_pushed_rows_and_those_of_the_table_the_oracles_stay(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "include" / "spark")
    ingest = importlib.import_module("ingest")
    view, table = replace(VIEW, deleted="flag"), shuffled(0)
    pq.write_table(table.slice(0, len(table) // 2), tmp_path / "pushed.parquet")
    monkeypatch.setattr("adin.features.pushed.files", lambda *_: [str(tmp_path / "pushed.parquet")])
    queried = frame(spark, table.slice(len(table) // 2), tmp_path)
    domain = SimpleNamespace(pushed={"pair"})
    found = ingest._with_pushed(spark, domain, view, queried, Window.parse("2021-01-01", "2021-01-02"))
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["a"], row["b"], row["event_timestamp"]), []).append(row)
    stays = {key: tuple(last(rows, "pair", "flag")[n] for n in FEATURES["pair"]) for key, rows in groups.items()}
    assert len(stays) < len(table)
    kept = found.toArrow().to_pylist()
    assert len(kept) == len(stays)
    answers = {
        (row["a"], row["b"], row["event_timestamp"]): tuple(row[name] for name in FEATURES["pair"]) for row in kept
    }
    assert weighed(answers) == weighed(stays)
