"""A year of real flights through the drift engine: what it says of the autumn, and of the same days shuffled."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from adin.datasets.clickhouse import clickhouse, identifier
from adin.drift import checks, engine, histograms
from adin.drift.engine import Source
from adin.drift.histograms import Days
from adin.drift.references import ROWS
from adin.drift.tables import store
from adin.problem import Drift
from adin.stack import demo_data

pytestmark = pytest.mark.flow(15)

COMMIT, TRAINED, END = "f" * 40, date(2013, 9, 1), date(2014, 1, 1)
WEATHER = ["temp", "humid", "wind_speed", "pressure", "visib"]
FEATURES = ("f__carrier", "f__origin", "f__hour", "f__distance", "f__dep_delay", *(f"f__{name}" for name in WEATHER))


def flights() -> pd.DataFrame:
    """Return the labelled flights of 2013 with weather, by scheduled departure."""
    raw = demo_data.tables("flights")
    rows = raw["arrivals"].merge(raw["weather"][["origin", "time_hour", *WEATHER]], "left", ["origin", "time_hour"])
    rows = rows[rows["arr_delay"].notna() & (rows["scheduled_departure"] < pd.Timestamp(END, tz="UTC"))]
    made = {f"f__{name}": rows[name] for name in ("carrier", "origin", "hour", "distance", "dep_delay", *WEATHER)}
    trained = rows["scheduled_departure"] < pd.Timestamp(TRAINED, tz="UTC")
    keys = {"carrier": rows["carrier"], "flight": rows["flight"], "event_timestamp": rows["scheduled_departure"]}
    late = (rows["arr_delay"] >= 15).astype("int32")
    return pd.DataFrame(
        {**keys, **made, "late_15": late, "split": np.where(trained, "train", "test"), "_commit": COMMIT}
    )


@pytest.fixture(scope="module")
def year(clickhouse_server):
    """The reference, and the counts of its days and of the later ones, by the real engine."""
    frame = flights()
    conn = clickhouse_server.connection
    kinds = {"O": "String", "i": "Int64", "f": "Float64", "M": "DateTime64(6, 'UTC')"}
    named = {name: kinds[kind.kind] for name, kind in frame.dtypes.items() if name not in ("split", "_commit")}
    columns = ", ".join(f"{identifier(name)} Nullable({kind})" for name, kind in named.items())
    table = f"{identifier(conn.schema)}.`replay`"
    with clickhouse(conn) as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS {identifier(conn.schema)}")
        client.command(
            f"CREATE TABLE {table} ({columns}, split String, _commit String) ENGINE = MergeTree ORDER BY split"
        )
        client.insert_df(table, frame)
    source = Source("replay", COMMIT, COMMIT, END, "late_15", FEATURES, Drift())
    with store(conn) as tables:
        return engine.counted(tables, source, "replay")


def found(policy: Drift, year, training: dict[str, Days], new: dict[str, Days], last: date) -> list[checks.Finding]:
    reference, *_ = year
    return checks.run(policy, reference, checks.Span(date(2013, 1, 1), last, END), training, new)


def test_the_year_is_counted_whole(year):
    _, training, new = year
    assert int(training[ROWS].counts.sum() + new[ROWS].counts.sum()) == len(flights())


def test_the_autumn_drifts_where_the_facts_say_so_and_timetables_never(year):
    reference, training, new = year
    policy = Drift(window=timedelta(days=7))
    weekly = found(policy, year, training, new, reference.last)
    alarmed = {each.subject: alarms(policy, each) for each in weekly if alarms(policy, each)}
    # in September 14 % of the flights were late, of those the model learned from 26 %
    assert alarmed.pop("late_15")[0].startswith("2013-09")
    assert not {"f__origin", "f__carrier", "f__hour", "f__distance", "rows"} & set(alarmed)


@pytest.mark.parametrize("length", [1, 7])
def test_shuffled_days_raise_at_most_one_alarm_a_month_and_feature(year, length):
    reference, training, new = year
    whole = histograms.joined(training, new)
    policy, began, months = Drift(window=timedelta(days=length)), 0, 0.0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(365)
        split = (reference.last - date(2013, 1, 1)).days + 1
        mixed = {name: shuffled(each, order) for name, each in whole.items()}
        parts = [{name: each.between(*span) for name, each in mixed.items()}
                 for span in ((date(2013, 1, 1), TRAINED), (TRAINED, END))]  # fmt: skip
        for each in found(policy, year, *parts, reference.last):
            if each.subject in FEATURES:
                began += beginnings(policy, each)
        months += (365 - split) / 30
    rate = began / (months * len(FEATURES))
    print(f"windows of {length} days: {rate:.4f} false alarms a month and feature")
    assert rate <= 1


def shuffled(days: Days, order) -> Days:
    """Return the counts of the days in another order; a day without rows stays one."""
    first = np.datetime64("2013-01-01")
    counts = np.zeros((365, days.counts.shape[1]))
    place = (days.days - first).astype(int)
    counts[place] = days.counts
    none = np.full(365, np.nan)
    return Days(first + np.arange(365), counts[order], none, none)


def alarms(policy: Drift, each: checks.Finding) -> list[str]:
    """Return the windows in which the alarm was active, as they came one by one."""
    seen = [replace(each, windows=each.windows[:n], values=each.values[:n]) for n in range(1, len(each.values) + 1)]
    return [part.windows[-1] for part in seen if checks.judged(policy, part).active]


def beginnings(policy: Drift, each: checks.Finding) -> int:
    """Return how many alarms begin."""
    active = np.isin(each.windows, alarms(policy, each))
    return int(np.sum(np.diff(np.array([False, *active], int)) > 0))
