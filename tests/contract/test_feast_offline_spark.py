"""Feast's own ``get_historical_features`` with our Spark store, over sources that do not have all that a view has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from adin.settings import settings
from spark_session import spark_session

if TYPE_CHECKING:  # the ML environment has no pyspark
    from feast import FeatureStore
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.flow(2, 3)
T = datetime(2021, 1, 20, 12, tzinfo=UTC)
#: Tied rows: ``value`` decides which ``note`` counts.
ROWS = """
    SELECT 'x' AS a, TIMESTAMP '2021-01-20 11:00:00Z' AS event_timestamp, map('k', value) AS labels, value, note
    FROM VALUES (2.0D, 'right'), (1.0D, 'zzz') AS given(value, note)
"""


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_SPARK", "spark://?namenode=hdfs%3A%2F%2F127.0.0.1%3A1")
        with spark_session(tmp_path_factory.mktemp("warehouse")) as session:
            yield session


@pytest.fixture(params=["32", "0"], ids=["in memory", "by sorting"])
def holding(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FeatureStore]]:
    """A function that gives a store of Feast with one view over the rows, of some features; joined either way."""
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    monkeypatch.setenv("ADIN_JOIN_MEMORY_MB", request.param)
    settings.cache_clear()

    def made(features: dict[str, Any], **more: Any) -> FeatureStore:
        offline = {"type": "adin.features.feast_offline.PointInTimeOfflineStore"}
        config = RepoConfig(
            project="bakery",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            offline_store=offline,
            online_store=None,
            entity_key_serialization_version=3,
        )
        key = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
        source = SparkSource(name="rows", query=ROWS, timestamp_field="event_timestamp")
        schema = [Field(name=name, dtype=kind) for name, kind in features.items()]
        store = FeatureStore(config=config)
        store.apply(
            [key, source, FeatureView(name="v", entities=[key], schema=schema, source=source, ttl=timedelta(0), **more)]
        )
        return store

    yield made
    monkeypatch.undo()
    settings.cache_clear()


def asked(store: FeatureStore, *names: str) -> Any:
    rows = pd.DataFrame({"a": ["x"], "event_timestamp": [T]})
    return store.get_historical_features(rows, [f"v:{name}" for name in names])


def test_what_the_source_does_not_have_yet_decides_nothing_and_only_who_asks_for_it_fails(
    holding: Callable[..., FeatureStore],
) -> None:
    from feast.types import Float64, String
    from pyspark.errors import AnalysisException

    store = holding({"later": Float64, "value": Float64, "note": String}, tags={"deleted": "gone"})
    assert asked(store, "note").to_df()["note"].tolist() == ["right"]
    with pytest.raises(AnalysisException, match="later"):
        asked(store, "note", "later").to_df()


def test_a_feature_that_spark_cannot_order_decides_nothing(holding: Callable[..., FeatureStore]) -> None:
    from feast.types import Float64, Map, String

    store = holding({"labels": Map, "value": Float64, "note": String})
    assert asked(store, "note").to_df()["note"].tolist() == ["right"]


def test_only_what_is_asked_for_goes_through_the_join(holding: Callable[..., FeatureStore]) -> None:
    from feast.types import Float64, String

    job = asked(holding({"value": Float64, "note": String}), "note")
    plan = job.to_spark_df()._jdf.queryExecution().analyzed().toString()
    assert "v__note" in plan and "v__value" not in plan
