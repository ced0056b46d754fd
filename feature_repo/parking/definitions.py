"""Entities, sources, feature views and services of the parking domain: plain Feast."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Int32, Int64, String, UnixTimestamp

park = Entity(name="park", join_keys=["park"], value_type=ValueType.STRING, description="Car park")

recent = FeatureView(
    name="recent",
    entities=[park],
    ttl=timedelta(minutes=45),
    schema=[
        Field(name="capacity", dtype=Int32, description="Spaces"),
        Field(name="rate", dtype=Float32, description="Share of spaces taken at the last reading"),
        Field(name="rate_30min_ago", dtype=Float32, description="The same 30 minutes before"),
        Field(name="rate_60min_ago", dtype=Float32, description="The same 60 minutes before"),
        Field(name="rate_yesterday", dtype=Float32, description="A day before the time to be predicted"),
        Field(name="rate_last_week", dtype=Float32, description="A week before the time to be predicted"),
    ],
    source=PushSource(
        name="recent_push",
        batch_source=SparkSource(
            name="parking_recent",
            table="parking.recent",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            date_partition_column="day",
        ),
    ),
)

request = RequestSource(
    name="question",
    schema=[Field(name="park", dtype=String), Field(name="asked_at", dtype=UnixTimestamp)],
)


@on_demand_feature_view(
    sources=[request],
    schema=[
        Field(name="park", dtype=String),
        Field(name="weekday", dtype=Int64),
        Field(name="minute", dtype=Int64),
    ],
)
def clock(inputs: pd.DataFrame) -> pd.DataFrame:
    """The car park itself, weekday, and minute of the day on Birmingham's wall clock."""
    local = pd.to_datetime(inputs["asked_at"], utc=True).dt.tz_convert("Europe/London")
    return pd.DataFrame(
        {
            "park": inputs["park"],
            "weekday": local.dt.weekday.astype("int64"),
            "minute": (local.dt.hour * 60 + local.dt.minute).astype("int64"),
        }
    )


parking_occupancy = FeatureService(
    name="parking_occupancy",
    features=[recent, clock],
    description="What is known of a car park when somebody asks how full it will be in 60 minutes",
)
