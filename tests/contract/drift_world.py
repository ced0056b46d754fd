"""A small world for drift: days of rows made by a seed, into the real engine as dataset versions lie there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from adin.connections import Connection
from adin.datasets.clickhouse import clickhouse, identifier
from adin.drift.engine import Source
from adin.problem import Drift

FEATURES = ("web__amount", "web__clicks", "web__country", "web__weekday")
START, TRAINED, NEW, ROWS = date(2013, 1, 1), 60, 20, 600
#: What is done to the rows before they are stored; ``new`` marks those after the training.
Fault = Callable[[pd.DataFrame, pd.Series], pd.DataFrame]


def rows(seed: int = 1, *, days: int = TRAINED + NEW, each: int = ROWS) -> pd.DataFrame:
    """Return the rows of a calm world: the days differ a little, none more than others."""
    draw = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), each)
    level = draw.normal(0, 0.1, days)[day]
    count = len(day)
    amount = draw.normal(50 + level * 10, 10)
    clicks = draw.poisson(40, count).astype("float64")
    clicks[draw.random(count) < 0.05] = np.nan
    frame = pd.DataFrame(
        {
            "customer": np.arange(count),
            "event_timestamp": pd.Timestamp(START, tz="UTC")
            + pd.to_timedelta(day * 86_400 + np.arange(count) % 80_000, "s"),
            "web__amount": amount,
            "web__clicks": clicks,
            "web__country": draw.choice(["DE", "FR", "IR", "US"], count, p=[0.4, 0.3, 0.2, 0.1]),
            "web__weekday": (day % 7).astype("int32"),
            "late": (draw.random(count) < 0.25 + level * 0.2).astype("int32"),
        }
    )
    return frame.assign(split=np.where(day < TRAINED, "train", "test"))


@dataclass
class World:
    """One problem's table in ClickHouse."""

    connection: Connection
    problem: str = field(default_factory=lambda: f"p_{uuid4().hex[:10]}")

    def store(self, commit: str, frame: pd.DataFrame) -> None:
        """Store rows as the loader does: a partition a commit."""
        table = f"{identifier(self.connection.schema)}.{identifier(self.problem)}"
        with clickhouse(self.connection) as client:
            client.command(f"CREATE DATABASE IF NOT EXISTS {identifier(self.connection.schema)}")
            client.command(
                f"CREATE TABLE IF NOT EXISTS {table} (customer Nullable(Int64), "
                "event_timestamp Nullable(DateTime64(6, 'UTC')), web__amount Nullable(Float64), "
                "web__clicks Nullable(Float32), web__country Nullable(String), web__weekday Nullable(Int32), "
                "late Nullable(Int32), split LowCardinality(String), _commit String) ENGINE = MergeTree "
                "PARTITION BY _commit ORDER BY (split, event_timestamp) SETTINGS allow_nullable_key = 1"
            )
            client.insert_df(table, frame.assign(_commit=commit))

    def source(self, commit: str, *, until: date = START + timedelta(days=TRAINED + NEW), **changes: Any) -> Source:
        """Return what a check of the stored rows is about."""
        made: dict[str, Any] = {
            "problem": self.problem,
            "learned": "a" * 40,
            "commit": commit,
            "until": until,
            "label": "late",
            "features": FEATURES,
            "policy": Drift(),
            "metric": "log_loss",
        }
        return Source(**(made | changes))
