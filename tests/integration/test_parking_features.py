"""Problem 2 from its dirty raw data to a judged model, on one machine and without servers."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from adin.features import repo
from adin.problem import problem
from adin.settings import ROOT, settings
from adin.stack import demo_data
from adin.window import Window

offline = pytest.importorskip("offline", reason="Spark is in the Airflow environment only")

DOMAIN, PROBLEM = "parking", "parking_occupancy"


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    settings.cache_clear()
    repo.read_anew()
    made = offline.session(tmp_path_factory.mktemp("spark"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    return demo_data.tables(DOMAIN)["readings"]


@pytest.fixture(scope="module")
def recent(spark, source) -> pd.DataFrame:
    offline.raw(spark, DOMAIN, {"readings": source})
    return offline.made(spark, DOMAIN, "recent").toPandas()


def reading(park: str, clock: str, occupancy: int, capacity: int = 100) -> dict:
    at = pd.Timestamp(clock, tz="Europe/London").tz_convert("UTC")
    return {
        "park": park, "capacity": capacity, "occupancy": occupancy, "last_updated": clock, "recorded_at": at,
    }  # fmt: skip


def rows_of(spark, view: str, *readings: dict) -> dict[datetime, dict]:
    offline.raw(spark, DOMAIN, {"readings": pd.DataFrame(readings)})
    found = offline.made(spark, DOMAIN, view).toPandas().astype(object)
    found = found.where(found.notna(), None)
    return {row["event_timestamp"].to_pydatetime().replace(tzinfo=UTC): row for row in found.to_dict("records")}


@pytest.mark.flow(1, 2)
def test_repeated_readings_are_one_row_and_counts_below_zero_are_none(source, recent):
    assert int(source.duplicated().sum()) == 216
    assert int((source["occupancy"] < 0).sum()) == 12
    assert not recent.duplicated(["park", "event_timestamp"]).any()
    assert len(recent) == len(source) - 216 - 12


@pytest.mark.flow(2)
def test_every_reading_stands_at_its_utc_time_on_both_sides_of_the_clock_change(recent):
    # summer time ended on 2016-10-30 at 01:00 UTC; parks were read from half past seven to half past four by the clock
    hours = recent.assign(hour=recent["event_timestamp"].dt.hour, summer=recent["event_timestamp"] < "2016-10-30")
    assert dict(hours.groupby("summer")["hour"].min()) == {True: 6, False: 7}
    assert dict(hours.groupby("summer")["hour"].max()) == {True: 15, False: 16}


@pytest.mark.flow(2)
def test_a_day_ago_is_the_same_hour_of_the_clock_also_across_the_clock_change(spark):
    rows = rows_of(
        spark,
        "recent",
        reading("p", "2016-10-29 10:00:00", 10),  # 09:00 UTC
        reading("p", "2016-10-29 11:00:00", 20),  # 10:00 UTC: 24 hours before the time to be predicted
        reading("p", "2016-10-30 09:00:00", 30),  # 09:00 UTC, asks for 10:00 by the clock
    )
    asked = rows[datetime(2016, 10, 30, 9, tzinfo=UTC)]
    assert asked["rate_yesterday"] == pytest.approx(0.10)


@pytest.mark.flow(2)
def test_of_several_readings_the_nearest_counts_and_none_outside_the_span(spark):
    rows = rows_of(
        spark,
        "recent",
        reading("p", "2016-11-01 09:31:00", 1),
        reading("p", "2016-11-01 09:36:00", 2),
        reading("q", "2016-11-01 09:36:00", 99),
        reading("p", "2016-11-01 10:05:00", 3),
        reading("p", "2016-11-01 10:19:59", 4),
    )
    half_past = rows[datetime(2016, 11, 1, 10, 5, tzinfo=UTC)]
    assert half_past["rate_30min_ago"] == pytest.approx(0.02)
    assert half_past["rate_60min_ago"] is None
    assert rows[datetime(2016, 11, 1, 10, 19, 59, tzinfo=UTC)]["rate_30min_ago"] is None


@pytest.mark.flow(2)
def test_a_label_is_known_only_after_all_readings_that_could_be_it(spark):
    rows = rows_of(
        spark,
        "outcomes",
        reading("p", "2016-11-01 09:00:00", 10),
        reading("p", "2016-11-01 09:52:00", 40),
        reading("p", "2016-11-01 10:09:00", 50),
    )
    label = rows[datetime(2016, 11, 1, 10, 10, tzinfo=UTC)]
    assert label["asked_at"].to_pydatetime().replace(tzinfo=UTC) == datetime(2016, 11, 1, 9, tzinfo=UTC)
    assert label["rate_in_60min"] == pytest.approx(0.40)
    assert label["created_timestamp"] - label["asked_at"] == timedelta(minutes=70) == problem(PROBLEM).label.known_after


@pytest.mark.flow(2, 22)
def test_a_broken_counter_stops_at_the_gate_but_an_overfull_park_does_not(spark, source):
    offline.raw(spark, DOMAIN, {"readings": source})
    for view in ("recent", "outcomes"):
        assert offline.broken(spark, DOMAIN, view, offline.made(spark, DOMAIN, view)) == []
    dirty = [
        reading("full", "2016-11-01 09:00:00", 104),
        reading("twice", "2016-11-01 09:00:00", 210),
        reading("empty", "2016-11-01 09:00:00", 5, capacity=0),
        reading("corrected", "2016-11-01 09:00:00", 5),
        reading("corrected", "2016-11-01 09:00:00", 6),
    ]
    offline.raw(spark, DOMAIN, {"readings": pd.DataFrame(dirty)})
    found = offline.broken(spark, DOMAIN, "recent", offline.made(spark, DOMAIN, "recent"))
    told = {each["rule"]: (each["rows"], " ".join(each["sample"])) for each in found}
    assert set(told) == {
        "rate outside 0 .. 1.1", "rate is null", "capacity not above 0", "park, event_timestamp not unique",
    }  # fmt: skip
    assert told["rate outside 0 .. 1.1"] == (1, "twice|2016-11-01 09:00:00")


@pytest.mark.flow(1, 6, 14)
def test_parking_is_predicted_as_well_as_promised_and_training_anew_each_week_gains(spark, source, tmp_path):
    offline.raw(spark, DOMAIN, {"readings": source})
    rows, counts = offline.training_set(spark, PROBLEM, Window.parse("2016-10-04", "2016-12-20"))
    rows.write.parquet(str(tmp_path / "rows"))
    assert 30_900 < counts["labelled"] < 31_100, counts
    command = [str(ROOT / ".venv-ml" / "bin" / "python"), str(ROOT / "tests" / "integration" / "parking_models.py")]
    done = subprocess.run([*command, str(tmp_path / "rows")], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(told["rows"].values()) == counts["labelled"], "one row an event, none lost, none doubled"
    assert told["persistence"] == pytest.approx(0.0707, abs=0.002)
    assert told["mae"] <= 0.028
    assert told["mae"] < 0.45 * told["persistence"]
    kept, anew = (sum(week[which] for week in told["weeks"]) for which in ("kept", "anew"))
    assert anew < 0.92 * kept, told["weeks"]
    assert all(week["anew"] < week["kept"] for week in told["weeks"][1:]), told["weeks"]
