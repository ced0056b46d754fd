"""Feast's own join in Spark and ours, called alike: what a training row may know."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore, FileSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from judging import Judge
from pyspark.sql import SparkSession
from spark_project import opened

pytestmark = pytest.mark.flow(2, 3)
OURS = "adin.features.feast_offline.PointInTimeOfflineStore"
T = datetime(2021, 1, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
Holding = Callable[..., FeatureStore]


@pytest.fixture
def holding(whose: str, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holding:
    """Return a function that gives a store of Feast with rows of the feature ``value``."""
    monkeypatch.setenv("ADIN_CONN_SPARK", "spark://?namenode=hdfs%3A%2F%2F127.0.0.1%3A1")

    def store(rows: list[dict[str, Any]], *keys: str, created: bool = True) -> FeatureStore:
        spark.createDataFrame(pd.DataFrame(rows)).write.mode("overwrite").saveAsTable("feature_rows")
        source = SparkSource(name="rows", table="feature_rows", timestamp_field="event_timestamp", **stamp(created))
        return opened(tmp_path, {"type": "spark" if whose == "stock" else OURS}, source, keys)

    return store


def stamp(created: bool) -> dict[str, Any]:
    return {"created_timestamp_column": "created_timestamp"} if created else {}


def value(number: float, *, at: datetime = T - HOUR, created: datetime | None = None, **keys: str) -> dict[str, Any]:
    return {**(keys or {"a": "x"}), "event_timestamp": at, "created_timestamp": created or at, "value": number}


def asked(*keys: dict[str, str], at: datetime = T) -> pd.DataFrame:
    """Return entity rows, numbered."""
    rows = [{"id": n, "event_timestamp": at, **each} for n, each in enumerate(keys)]
    return pd.DataFrame(rows)


def retrieved(store: FeatureStore, entities: pd.DataFrame) -> list[tuple[int, float | None]]:
    """Return the number and the value of each row of the answer."""
    found = store.get_historical_features(entities, ["view:value"]).to_df()
    values = [None if pd.isna(each) else float(each) for each in found["value"]]
    return sorted(zip(found["id"].tolist(), values, strict=True), key=str)


def test_composite_keys_that_read_alike_in_a_row_keep_their_own_values(holding: Holding, judge: Judge) -> None:
    one, other = {"a": "1", "b": "12"}, {"a": "11", "b": "2"}
    found = retrieved(holding([value(1, **one), value(2, **other)], "a", "b"), asked(one, other))
    judge(found, right=[(0, 1.0), (1, 2.0)], stock=[(0, 1.0), (0, 2.0), (1, 1.0), (1, 2.0)])


@pytest.mark.parametrize("created", [False, True], ids=["without-created-time", "with-equal-created-times"])
def test_feature_rows_of_one_time_never_repeat_a_training_row(holding: Holding, judge: Judge, created: bool) -> None:
    found = retrieved(holding([value(1), value(1)], "a", created=created), asked({"a": "x"}))
    judge(found, right=[(0, 1.0)], stock=[(0, 1.0), (0, 1.0)])


def test_a_value_created_after_the_prediction_time_is_not_used(holding: Holding, judge: Judge) -> None:
    rows = [value(1, at=T - 2 * HOUR), value(666, created=T + HOUR)]
    judge(retrieved(holding(rows, "a"), asked({"a": "x"})), right=[(0, 1.0)], stock=[(0, 666.0)])


def test_no_view_is_left_in_the_session(holding: Holding, judge: Judge, spark: SparkSession) -> None:
    def views() -> set[str]:
        return {each.name for each in spark.catalog.listTables() if each.isTemporary}

    for each in views():
        spark.catalog.dropTempView(each)
    assert retrieved(holding([value(1)], "a"), asked({"a": "x"})) == [(0, 1.0)]
    left = {each.partition("_df_")[0] for each in views()}
    judge(left, right=set(), stock={"entity_dataframe", "feast_entity", "view__cleaned"})


def test_of_two_retrievals_in_one_session_each_answers_its_own_entity_rows(
    holding: Holding, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = holding([value(1, a="x"), value(2, a="y")], "a")
    run, between = SparkSession.sql, [asked({"a": "y"})]

    def statement(self: SparkSession, *args: Any, **kwargs: Any) -> Any:
        """Let another retrieval come between two statements of the first, as another thread's may."""
        done = run(self, *args, **kwargs)
        if between:
            assert retrieved(store, between.pop()) == [(0, 2.0)]
        return done

    monkeypatch.setattr(SparkSession, "sql", statement)
    found = retrieved(store, asked({"a": "x"}))
    assert not between, "no other came between"
    judge(found, right=[(0, 1.0)], stock=[(0, 2.0)])


def test_an_entity_row_without_an_earlier_value_is_kept(
    holding: Holding, judge: Judge, whose: str, tmp_path: Path
) -> None:
    rows = [value(1, a="x"), value(666, a="y", at=T + HOUR)]
    if whose == "ours":
        store = holding(rows, "a")
    else:  # Feast's store for files; its Spark store keeps the row
        file = tmp_path / "rows.parquet"
        pd.DataFrame(rows).to_parquet(file)
        source = FileSource(name="rows", path=str(file), timestamp_field="event_timestamp", **stamp(True))
        store = opened(tmp_path, {"type": "dask"}, source, ("a",))
    found = retrieved(store, asked({"a": "x"}, {"a": "x"}, {"a": "y"}))
    judge(found, right=[(0, 1.0), (1, 1.0), (2, None)], stock=[(1, 1.0)])
