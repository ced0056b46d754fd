"""Seed raw data as day partitions in HDFS: a domain's own demo data, or a user's file.

For demonstration and tests only; the platform does no ETL of raw data. A row lies in the partition of the day on which
it became known (``recorded_at``), so no day's facts are visible before that day.
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
from adin.window import Window

if TYPE_CHECKING:
    import pandas as pd

_ARROW = {
    "string": "string",
    "int": "int32",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
}


def load(domain: str, progress: Callable[[str], None] = lambda _: None) -> None:
    """Write every day of a domain's raw tables that is not there yet.

    :raises NotFoundError: no demo data for the domain, or it was not fetched.
    """
    last = f"{settings().raw_root}/{domain}/_LOADED"
    if hdfs.exists(last):
        progress(f"raw {domain}: there already")
        return
    made = tables(domain)
    for number, (table, frame) in enumerate(made.items(), 1):
        days = write(domain, table, frame)
        progress(f"raw {domain}.{table} ({number}/{len(made)}): {len(frame):,} rows in {days} days")
    hdfs.write(last, b"")


def tables(domain: str) -> dict[str, pd.DataFrame]:
    """Return a domain's raw tables from ``feature_repo/<domain>/demo/raw.py``.

    :raises NotFoundError: no demo data for the domain, or it was not fetched.
    """
    source = settings().feature_repo / domain / "demo" / "raw.py"
    if not source.is_file():
        raise NotFoundError(f"No demo data for {domain!r}: {source} is missing.", "Load raw data of your own.")
    seed = repo.module(source)
    package = getattr(seed, "PACKAGE", None)  # made data needs none
    return dict(seed.tables(_files(package) if package else {}))


def _files(package: str) -> dict[str, bytes]:
    """Return the data files of a fetched package; nothing of the package is run."""
    pinned = json.loads((ROOT / "deploy" / "local" / "artifacts.json").read_text())["data"]
    names = [item["file"] for item in pinned if item["package"].startswith(f"{package}==")]
    path = settings().cache / "data" / (names[0] if names else package)
    if not path.is_file():
        raise NotFoundError(f"{path} is missing.", "Pin it in deploy/local/artifacts.json and run `make setup`.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            return {Path(name).name: wheel.read(name) for name in wheel.namelist() if "/data/" in name}
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if "/data/" in member.name and (file := archive.extractfile(member)):
                found[Path(member.name).name] = file.read()
    return found


def write(domain: str, table: str, frame: pd.DataFrame) -> int:
    """Write a frame as one file a day and return the number of days; days that are there are left alone.

    A day of the source on which nothing became known is written too, empty: it is complete, not missing.

    :param frame: the declared columns, ``recorded_at`` among them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = repo.domain(domain)
    columns = found.raw[table].columns
    schema = pa.schema([pa.field(name, _arrow_type(kind)) for name, kind in columns.items()])
    rows = pa.Table.from_pandas(frame[list(columns)], schema=schema, preserve_index=False, safe=False)
    days = frame["recorded_at"].dt.strftime("%Y-%m-%d").to_numpy()

    def keep(day: str) -> None:
        folder = found.folder(table, day)
        if hdfs.exists(f"{folder}/_SUCCESS"):
            return
        buffer = io.BytesIO()
        pq.write_table(rows.filter(pa.array(days == day)), buffer)
        hdfs.make(folder)
        hdfs.write(f"{folder}/part-0.parquet", buffer.getvalue())
        hdfs.write(f"{folder}/_SUCCESS", b"")

    known = set(days)
    if found.arrives and found.arrives.end and not found.raw[table].static:
        known |= {str(day) for day in Window(found.arrives.start, found.arrives.end).days}
    with ThreadPoolExecutor(32) as pool:  # a write mostly waits for HDFS to close the file
        list(pool.map(keep, sorted(known)))
    return len(known)


def _arrow_type(kind: str) -> object:
    import pyarrow as pa

    return pa.timestamp("us", "UTC") if kind == "timestamp" else pa.type_for_alias(_ARROW[kind])
