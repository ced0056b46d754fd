"""Entities, sources, feature views and services of the flights domain: plain Feast."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int32, Int64, String, UnixTimestamp


def hive(table: str) -> PushSource:
    """Return a Hive table as a source that rows can also be pushed to.

    Its rows carry when they happened and when they became known.
    """
    return PushSource(
        name=f"{table.partition('.')[2]}_push",
        batch_source=SparkSource(
            name=table.replace(".", "_"),
            table=table,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            date_partition_column="day",
        ),
    )


origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING, description="Airport of departure")
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING, description="Airline")
tail = Entity(name="tail", join_keys=["tailnum"], value_type=ValueType.STRING, description="Aircraft")

origin_2h = FeatureView(
    name="origin_2h",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="mean_delay", dtype=Float32, description="Mean departure delay of the last 2 hours, minutes"),
        Field(name="late_share", dtype=Float32, description="Share of departures 15 or more minutes late"),
        Field(name="departures", dtype=Int32, description="Departures of the last 2 hours"),
    ],
    source=hive("flights.origin_2h"),
)

carrier_origin_24h = FeatureView(
    name="carrier_origin_24h",
    entities=[carrier, origin],
    ttl=timedelta(hours=48),
    schema=[
        Field(name="mean_delay", dtype=Float32, description="Mean departure delay of the last 24 hours, minutes"),
        Field(name="late_share", dtype=Float32, description="Share of departures 15 or more minutes late"),
        Field(name="departures", dtype=Int32, description="Departures of the last 24 hours"),
    ],
    source=hive("flights.carrier_origin_24h"),
)

tail_last = FeatureView(
    name="tail_last",
    entities=[tail],
    ttl=timedelta(days=3),
    schema=[
        Field(name="last_delay", dtype=Float32, description="Departure delay of the aircraft's last flight, minutes"),
        Field(name="departed_at", dtype=Int64, description="When that flight left, seconds since 1970"),
    ],
    source=hive("flights.tail_last"),
)

weather = FeatureView(
    name="weather",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="temp", dtype=Float32, description="Temperature, F"),
        Field(name="dewp", dtype=Float32, description="Dew point, F"),
        Field(name="humid", dtype=Float32, description="Relative humidity, %"),
        Field(name="wind_dir", dtype=Float32, description="Wind direction, degrees"),
        Field(name="wind_speed", dtype=Float32, description="Wind speed, mph"),
        Field(name="wind_gust", dtype=Float32, description="Gust speed, mph"),
        Field(name="precip", dtype=Float32, description="Precipitation, inches"),
        Field(name="pressure", dtype=Float32, description="Sea level pressure, mbar"),
        Field(name="visib", dtype=Float32, description="Visibility, miles"),
    ],
    source=hive("flights.weather"),
)

plane = FeatureView(
    name="plane",
    entities=[tail],
    ttl=timedelta(0),  # does not age
    schema=[
        Field(name="year", dtype=Int32, description="Year built"),
        Field(name="seats", dtype=Int32, description="Seats"),
    ],
    source=hive("flights.plane"),
)

request = RequestSource(
    name="flight",
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="origin", dtype=String),
        Field(name="dest", dtype=String),
        Field(name="scheduled_departure", dtype=UnixTimestamp),
        Field(name="scheduled_arrival_minute", dtype=Int64),
        Field(name="distance", dtype=Float64),
    ],
)
asked = RequestSource(name="asked", schema=[Field(name="prediction_time", dtype=UnixTimestamp)])


@on_demand_feature_view(
    sources=[request],
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="origin", dtype=String),
        Field(name="dest", dtype=String),
        Field(name="hour", dtype=Int64),
        Field(name="minute", dtype=Int64),
        Field(name="weekday", dtype=Int64),
        Field(name="arrival_minute", dtype=Int64),
        Field(name="distance", dtype=Float64),
    ],
)
def schedule(inputs: pd.DataFrame) -> pd.DataFrame:
    """What the timetable says, in New York's time."""
    local = pd.to_datetime(inputs["scheduled_departure"], utc=True).dt.tz_convert("America/New_York")
    return pd.DataFrame(
        {
            "carrier": inputs["carrier"],
            "origin": inputs["origin"],
            "dest": inputs["dest"],
            "hour": local.dt.hour.astype("int64"),
            "minute": local.dt.minute.astype("int64"),
            "weekday": local.dt.weekday.astype("int64"),
            "arrival_minute": inputs["scheduled_arrival_minute"].astype("int64"),
            "distance": inputs["distance"].astype("float64"),
        }
    )


@on_demand_feature_view(sources=[tail_last, asked], schema=[Field(name="hours", dtype=Float64)])
def tail_idle(inputs: pd.DataFrame) -> pd.DataFrame:
    """Hours since the aircraft last left one of the origins."""
    asked_at = pd.to_datetime(inputs["prediction_time"], utc=True) - pd.Timestamp(0, tz="UTC")
    return pd.DataFrame({"hours": (asked_at.dt.total_seconds() - inputs["departed_at"].astype("float64")) / 3600})


flights_delay = FeatureService(
    name="flights_delay",
    features=[origin_2h, carrier_origin_24h, tail_last[["last_delay"]], weather, plane, schedule, tail_idle],
    description="What is known of a flight 60 minutes before its scheduled departure",
)
