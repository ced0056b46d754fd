"""Feast's Redis writer and ours, called alike by Feast: corrections, deletions, expiry, unknown entities, hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from adin.errors import ConfigError
from adin.features import online, repo, store
from adin.settings import settings
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast_project import END, OURS, START, Project
from google.protobuf.timestamp_pb2 import Timestamp
from judging import Judge
from pyspark.sql import SparkSession
from redis_server import RedisServer
from shop_rows import AT, forget, rows
from spark_project import opened

pytestmark = pytest.mark.flow(9, 11)
HOUR = timedelta(hours=1)
ENTITY = {"shop": "shop-0", "till_id": -5}
Made = Callable[..., Project]


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    redis_server.ask("FLUSHALL")
    return redis_server


@pytest.fixture
def made(whose: str, redis: RedisServer, tmp_path: Path) -> Iterator[Made]:
    """Return a function that makes a project of Feast with the writer in question."""
    yield lambda **options: Project(tmp_path / "project", redis.connection, ours=whose == "ours", **options)
    settings.cache_clear()


def row(cents: int, **when: Any) -> pa.Table:
    """Return the one entity's row."""
    return given(rows(1, **when), cents=cents, open=False)


def given(table: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array([value], field.type))
    return table


def load(project: Project, table: pa.Table) -> Any:
    """Let the source hold a row and materialize it; return Feast's own class."""
    project.put(table)
    found = project.apply()
    found.materialize(START, END, feature_views=["takings"])
    return found


def cents(found: Any, entity: dict[str, Any] = ENTITY) -> Any:
    return found.get_online_features(["takings:cents"], [entity]).to_dict()["cents"][0]


def test_a_correction_that_became_known_later_is_materialized(made: Made, judge: Judge) -> None:
    project = made()
    load(project, row(1))
    judge(cents(load(project, row(2, created=AT + HOUR))), right=2, stock=1)


def test_a_correction_that_became_known_later_is_pushed_and_an_older_row_is_not(made: Made, judge: Judge) -> None:
    found = load(made(), row(1))
    found.write_to_online_store("takings", row(2, created=AT + HOUR).to_pandas())
    corrected = cents(found)
    found.write_to_online_store("takings", row(3, at=AT - HOUR, created=AT + 2 * HOUR).to_pandas())
    judge((corrected, cents(found)), right=(2, 2), stock=(1, 1))


def test_a_deleted_row_leaves_and_is_not_brought_back_by_an_older_one(made: Made, judge: Judge) -> None:
    project = made(tags={"deleted": "open"})
    load(project, row(1))
    after = cents(load(project, given(row(1, at=AT + 2 * HOUR, created=AT + 2 * HOUR), open=True, cents=9)))
    again = cents(load(project, row(3, at=AT + HOUR)))
    judge((after, again), right=(None, None), stock=(9, 9))


def test_a_view_can_leave_redis_when_its_time_is_over(made: Made, judge: Judge, redis: RedisServer) -> None:
    load(made(ttl=2 * HOUR, tags={"online_ttl": "2h"}), row(1))
    (key,) = redis.content()
    judge(redis.ask("TTL", key) > 0, right=True, stock=False)


def test_an_unknown_entity_is_told_from_one_whose_value_is_null(
    made: Made, judge: Judge, whose: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(made(), given(row(1), cents=None))
    unknown = ENTITY | {"till_id": 404}
    if whose == "stock":
        answer = found.get_online_features(["takings:cents"], [ENTITY, unknown]).proto
        known = [status == 1 for status in answer.results[-1].statuses]  # PRESENT
    else:
        monkeypatch.setenv("ADIN_PROJECT", "bakery")
        settings.cache_clear()
        kinds = (("till_id", "Int64"), ("shop", "String"))
        view = repo.View("takings", "", ("till_id", "shop"), (("cents", "Int64"),), key_types=kinds)
        reader = online.OnlineReader(repo.Service("one", (view,), (), (), ()), redis.connection)
        known = [not each for each in np.isnat(reader.read([ENTITY, unknown])[1]["takings"])]
    judge(known, right=[True, False], stock=[True, True])


def test_event_times_are_utc_online_whatever_the_time_zone_of_the_spark_session(
    judge: Judge, whose: str, redis: RedisServer, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_CONN_SPARK", "spark://?namenode=hdfs%3A%2F%2F127.0.0.1%3A1")
    frame = pd.DataFrame([{"a": "x", "value": 1.0, "event_timestamp": AT}])
    spark.createDataFrame(frame).write.mode("overwrite").saveAsTable("zoned_rows")
    online = {"type": "redis", "connection_string": store._redis(redis.connection)}
    more: dict[str, Any] = {"online_store": online}
    if whose == "ours":
        online["type"] = f"{OURS}.RedisOnlineStore"
        more["batch_engine"] = {"type": f"{OURS}.ArrowEngine"}
    offline = "spark" if whose == "stock" else "adin.features.feast_offline.PointInTimeOfflineStore"
    source = SparkSource(name="rows", table="zoned_rows", timestamp_field="event_timestamp")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tehran")
    try:
        opened(tmp_path, {"type": offline}, source, ("a",), **more).materialize(START, END)
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    ((fields),) = redis.content().values()
    moment = Timestamp.FromString(fields[b"_ts:view"]).ToDatetime(UTC)
    judge(moment - AT, right=timedelta(0), stock=timedelta(hours=4, minutes=30))


RAW = "tables: {t: {columns: {a: string}}}\nviews: {takings: {reads: [t]}}\n"
TWINS = """
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Float64

key = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
source = SparkSource(name="rows", table="twins.takings", timestamp_field="event_timestamp")
takings = FeatureView(name="takings", entities=[key], source=source, schema=[
    Field(name="f61006", dtype=Float64), Field(name="f115360", dtype=Float64)])
"""


def test_two_features_with_one_hash_are_refused_when_they_are_applied(
    judge: Judge, whose: str, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"registry": f"sqlite:///{tmp_path}/registry.db"}
    monkeypatch.setenv("ADIN_CONN_FEAST", replace(redis.connection, extra=where).uri)
    domain = tmp_path / "twins"
    domain.mkdir()
    for name, text in {"definitions.py": TWINS, "takings.sql": "SELECT 1", "raw.yaml": RAW}.items():
        (domain / name).write_text(text)
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path))
    forget()
    try:
        if whose == "ours":
            with pytest.raises(ConfigError, match="have the same hash in Redis") as refused:
                store.apply("twins")
            found: Any = type(refused.value).__name__
        else:
            feast = store.feature_store()
            feast.apply(list(repo.domain("twins").feast_objects))
            frame = pd.DataFrame({"a": ["x"], "event_timestamp": [AT], "f61006": [1.0], "f115360": [2.0]})
            feast.write_to_online_store("takings", frame)
            answer = feast.get_online_features(["takings:f61006", "takings:f115360"], [{"a": "x"}]).to_dict()
            found = (answer["f61006"], answer["f115360"])
        judge(found, right="ConfigError", stock=([2.0], [2.0]))
    finally:
        forget()
