"""A domain made for the ingest tests: one raw table, one view which looks an hour back."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Float64, Int64

sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.STRING)
hourly = FeatureView(
    name="hourly",
    entities=[sensor],
    ttl=timedelta(hours=2),
    schema=[Field(name="mean", dtype=Float64), Field(name="readings", dtype=Int64)],
    source=SparkSource(
        name="hourly",
        table="meters.hourly",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
)
meters = FeatureService(name="meters", features=[hourly])
