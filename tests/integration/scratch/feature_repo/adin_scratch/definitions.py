"""A domain made for the point-in-time tests: a composite key, a short and an endless ttl, a key that is a number."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String, UnixTimestamp


def hive(table: str) -> SparkSource:
    return SparkSource(
        name=table,
        table=f"adin_scratch.{table}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        date_partition_column="day",
    )


a = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
b = Entity(name="b", join_keys=["b"], value_type=ValueType.STRING)
n = Entity(name="n", join_keys=["n"], value_type=ValueType.INT64)
pair = FeatureView(
    name="pair",
    entities=[a, b],
    ttl=timedelta(hours=6),
    schema=[Field(name="value", dtype=Float64), Field(name="note", dtype=String), Field(name="flag", dtype=Bool)],
    source=hive("pair"),
)
brief = FeatureView(
    name="brief",
    entities=[a],
    ttl=timedelta(minutes=30),
    schema=[Field(name="value", dtype=Float64)],
    source=hive("brief"),
)
fixed = FeatureView(
    name="fixed", entities=[n], ttl=timedelta(0), schema=[Field(name="value", dtype=Int64)], source=hive("fixed")
)
asked = RequestSource(
    name="asked", schema=[Field(name="factor", dtype=Float64), Field(name="prediction_time", dtype=UnixTimestamp)]
)


@on_demand_feature_view(
    sources=[pair, asked], schema=[Field(name="product", dtype=Float64), Field(name="hour", dtype=Int64)]
)
def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
    hour = pd.to_datetime(inputs["prediction_time"], utc=True).dt.hour.astype("int64")
    return pd.DataFrame({"product": inputs["value"] * inputs["factor"], "hour": hour})


everything = FeatureService(name="everything", features=[pair, brief, fixed, scaled])
