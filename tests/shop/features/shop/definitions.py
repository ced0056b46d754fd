"""A feature domain with every type the online store keeps, one view with two keys."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp


def hive(table: str) -> PushSource:
    """Return a Hive table as a source that rows can also be pushed to."""
    return PushSource(
        name=f"{table.partition('.')[2]}_push",
        batch_source=SparkSource(
            name=table.replace(".", "_"),
            table=table,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
till = Entity(name="till", join_keys=["till_id"], value_type=ValueType.INT64)

takings = FeatureView(
    name="takings",
    entities=[till, shop],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="amount", dtype=Float64),
        Field(name="mean", dtype=Float32),
        Field(name="orders", dtype=Int32),
        Field(name="cents", dtype=Int64),
        Field(name="open", dtype=Bool),
        Field(name="keeper", dtype=String),
        Field(name="opened_at", dtype=UnixTimestamp),
    ],
    source=hive("shop.takings"),
)
prices = FeatureView(
    name="prices",
    entities=[shop],
    ttl=timedelta(0),
    schema=[Field(name="bread", dtype=Float32), Field(name="level", dtype=Int32)],
    source=hive("shop.prices"),
)
asked = RequestSource(name="asked", schema=[Field(name="weight", dtype=Float64)])


@on_demand_feature_view(sources=[prices, asked], schema=[Field(name="total", dtype=Float64)])
def bill(inputs: pd.DataFrame) -> pd.DataFrame:
    """What so much bread costs."""
    return pd.DataFrame({"total": inputs["bread"] * inputs["weight"]})


counter = FeatureService(name="counter", features=[takings, prices, bill])
