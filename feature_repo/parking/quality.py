"""What each table of the parking domain must look like: pandera schemas, compiled to one query a table."""

from __future__ import annotations

import pandera.pandas as pa

#: Drivers find room for some more cars than there are spaces; twice as many are a broken counter.
_rate = pa.Check.in_range(0, 1.1)

SCHEMAS = {
    "recent": pa.DataFrameSchema(
        {
            "park": pa.Column(str),
            "capacity": pa.Column(int, pa.Check.gt(0)),
            "rate": pa.Column(float, _rate),
            "rate_30min_ago": pa.Column(float, _rate, nullable=True),
            "rate_60min_ago": pa.Column(float, _rate, nullable=True),
            "rate_yesterday": pa.Column(float, _rate, nullable=True),
            "rate_last_week": pa.Column(float, _rate, nullable=True),
        },
        unique=["park", "event_timestamp"],
    ),
    "outcomes": pa.DataFrameSchema(
        {
            "park": pa.Column(str),
            "asked_at": pa.Column("datetime64[us]"),
            "rate_in_60min": pa.Column(float, _rate, nullable=True),
        },
        unique=["park", "asked_at"],
    ),
}
