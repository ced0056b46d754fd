"""Feast's own ``get_historical_features`` with our Spark store: what goes wrong with Feast's is right.

The same of PostgreSQL: ``tests/contract/test_feast_offline_postgres.py``.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from adin.connections import connection, trying
from adin.features import store
from adin.settings import settings
from oracle import FEATURES, REFERENCES, TTL, T, all_cases, answer, check, entity_rows, write

pytestmark = [pytest.mark.flow(2, 3), pytest.mark.usefixtures("scratch")]


@pytest.fixture(scope="module")
def feast(scratch, write_features, tmp_path_factory):
    """Feast on a registry of its own, with the scratch definitions applied and their tables in Hive."""
    registry = f"sqlite:///{tmp_path_factory.mktemp('feast') / 'registry.db'}"
    with trying(replace(connection("feast"), extra={"registry": registry})):
        write(write_features, *all_cases(3), random.Random(1))
        store.apply("adin_scratch")
        found = store.feature_store(offline=True)
        yield found
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        session.stop()


@pytest.fixture(scope="module")
def events():
    """Entity rows: each event of the cases with its prediction time."""
    return all_cases(3)[1]


@pytest.fixture(scope="module")
def joined(feast, events):
    """The answer for all events, by Feast's own method."""
    frame = entity_rows(events)
    before = frame.copy()
    found = feast.get_historical_features(frame, REFERENCES, full_feature_names=True).to_df()
    pd.testing.assert_frame_equal(frame, before, obj="the caller's own frame")
    return {row["id"]: row for row in found.to_dict("records")}


def test_there_is_one_row_for_each_entity_row_and_each_is_what_the_oracle_finds(joined, events):
    check(joined, events, all_cases(3)[0])


@pytest.mark.parametrize("memory", ["32", "0"], ids=["in memory", "by sorting"])
def test_ties_have_one_answer_whatever_the_order_of_the_features_asked_for(feast, joined, events, memory, monkeypatch):
    monkeypatch.setenv("ADIN_JOIN_MEMORY_MB", memory)
    settings.cache_clear()

    def asked(references):
        found = feast.get_historical_features(entity_rows(events), references, full_feature_names=True).to_df()
        return {row["id"]: row for row in found.to_dict("records")}

    try:
        again, alone = asked(REFERENCES[::-1]), asked(["pair:note"])
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    for name, row in joined.items():
        assert [answer(row, view) for view in FEATURES] == [answer(again[name], view) for view in FEATURES]
        assert answer(row, "pair") == answer(row | alone[name], "pair")


def test_partitions_are_chosen_in_the_sources_own_form_of_a_day(feast, joined, events, tmp_path):
    from feast import Entity, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.types import Float64

    source = SparkSource(
        name="compact",
        query="SELECT *, date_format(event_timestamp, 'yyyyMMdd') AS yyyymmdd FROM adin_scratch.brief",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        date_partition_column="yyyymmdd",
        date_partition_column_format="%Y%m%d",
    )
    a = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
    schema = [Field(name="value", dtype=Float64)]
    extra = {"registry": f"sqlite:///{tmp_path / 'registry.db'}"}
    other = store.feature_store(replace(connection("feast"), extra=extra), offline=True)
    other.apply([a, FeatureView(name="compact", entities=[a], schema=schema, source=source, ttl=TTL["brief"])])
    found = other.get_historical_features(entity_rows(events), ["compact:value"]).to_df().to_dict("records")
    expected = {name: answer(row, "brief") for name, row in joined.items()}
    assert {row["id"]: answer({"brief__value": row["value"]}, "brief") for row in found} == expected


def test_composite_keys_that_read_alike_when_strung_together_are_kept_apart(joined):
    notes = {name.split("/")[0]: row["pair__note"] for name, row in joined.items()}
    assert (notes["1+12"], notes["11+2"]) == ("1/12", "11/2")


def test_nothing_known_later_is_used(joined):
    values = {name.split("/")[0]: row["pair__value"] for name, row in joined.items()}
    assert values["late"] == 1.0
    assert 666.0 not in values.values()


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tehran"])
def test_a_machine_that_is_not_in_utc_reads_the_same_partitions(feast, joined, events, zone, monkeypatch):
    night = datetime(2021, 1, 28, tzinfo=UTC)
    frame = entity_rows(events)
    frame = frame[(frame["event_timestamp"] >= night) & (frame["event_timestamp"] < night + timedelta(hours=4))]
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        found = feast.get_historical_features(frame, REFERENCES, full_feature_names=True).to_df()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(found) == len(frame) > 100
    for row in found.to_dict("records"):
        assert [answer(row, view) for view in FEATURES] == [answer(joined[row["id"]], view) for view in FEATURES]


def test_a_service_with_on_demand_features_is_answered_and_no_view_is_left(feast):
    frame = pd.DataFrame(
        {"a": ["now"], "b": ["k"], "n": [77], "event_timestamp": [T], "factor": [2.0], "prediction_time": [T]}
    )
    job = feast.get_historical_features(frame, feast.get_feature_service("everything"), full_feature_names=True)
    row = job.to_df().iloc[0]
    assert (row["pair__value"], row["scaled__product"], row["scaled__hour"]) == (2.0, 4.0, T.hour)
    assert job.to_spark_df().sparkSession.catalog.listTables("default") == []
