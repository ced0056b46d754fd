"""What each table of the flights domain must look like: pandera schemas, compiled to one query a table."""

from __future__ import annotations

import pandera.pandas as pa

_delays = {
    "mean_delay": pa.Column(float, pa.Check.in_range(-120, 2000)),
    "late_share": pa.Column(float, pa.Check.in_range(0, 1)),
    "departures": pa.Column(int, pa.Check.ge(1)),
}

SCHEMAS = {
    "origin_2h": pa.DataFrameSchema(
        {"origin": pa.Column(str, pa.Check.isin(["EWR", "JFK", "LGA"])), **_delays},
        unique=["origin", "event_timestamp"],
    ),
    "carrier_origin_24h": pa.DataFrameSchema(
        {"carrier": pa.Column(str), "origin": pa.Column(str), **_delays},
        unique=["carrier", "origin", "event_timestamp"],
    ),
    "tail_last": pa.DataFrameSchema(
        {
            "tailnum": pa.Column(str),
            "last_delay": pa.Column(float, pa.Check.in_range(-120, 2000)),
            "departed_at": pa.Column(int),
        },
        unique=["tailnum", "event_timestamp"],
    ),
    "weather": pa.DataFrameSchema(
        {
            "origin": pa.Column(str),
            "temp": pa.Column(float, pa.Check.in_range(-40, 130), nullable=True),
            "humid": pa.Column(float, pa.Check.in_range(0, 100), nullable=True),
            "wind_dir": pa.Column(float, pa.Check.in_range(0, 360), nullable=True),
            "visib": pa.Column(float, pa.Check.ge(0), nullable=True),
        },
        unique=["origin", "event_timestamp"],
    ),
    "plane": pa.DataFrameSchema(
        {
            "tailnum": pa.Column(str),
            "year": pa.Column(int, pa.Check.in_range(1920, 2013), nullable=True),
            "seats": pa.Column(int, pa.Check.in_range(1, 1000), nullable=True),
        },
        unique=["tailnum", "event_timestamp"],
    ),
    "outcomes": pa.DataFrameSchema(
        {
            "carrier": pa.Column(str),
            "origin": pa.Column(str),
            "scheduled_departure": pa.Column("datetime64[us]"),
            "late_15": pa.Column(int, pa.Check.isin([0, 1]), nullable=True),
            "distance": pa.Column(float, pa.Check.gt(0)),
        },
        unique=["carrier", "flight", "origin", "scheduled_departure"],
    ),
}
