"""Raw day partitions in HDFS, compared with what the domain declares before a row of them is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from adin.errors import DataError
from adin.features import hdfs, repo
from adin.window import Window
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

#: Differences shown of a changed schema.
_SHOWN = 5


def read(session: SparkSession, domain: repo.Domain, table: str, window: Window, lookback: timedelta) -> DataFrame:
    """Return the rows of a raw table for a window and the time before it that its view looks back on.

    :raises DataError: a day is missing, a file is corrupt, or its columns are not those of ``raw.yaml``.
    """
    declared = domain.raw[table].columns
    files = _files(domain, table, window, lookback)
    _compare(domain, table, files)
    schema = ", ".join(f"{name} {kind}" for name, kind in declared.items())
    folders = [domain.folder(table, day) for day in sorted(files)]
    return session.read.schema(schema).parquet(*folders) if folders else session.createDataFrame([], schema)


def _files(domain: repo.Domain, table: str, window: Window, lookback: timedelta) -> Mapping[date, list[str]]:
    """Return the Parquet files of each day that is there and complete."""
    first = (window.start - lookback).date()
    wanted = [first + timedelta(days=n) for n in range((window.days[-1] - first).days + 1)]
    root = domain.folder(table, "").rpartition("/")[0]
    found: dict[str, list[str]] = {}
    for path in hdfs.list_files(root):
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, []).append(name)
    complete = {folder for folder, names in found.items() if "_SUCCESS" in names}
    if not domain.raw[table].static:
        # before the first day there is nothing to look back on
        start = min(complete, default="")
        folders = [domain.folder(table, day) for day in wanted]
        asked = folders[-len(window.days) :]
        missing = [path for path in folders if path not in complete and (path in asked or path > start)]
        if missing:
            raise DataError(
                f"Raw partition {missing[0]} is missing or has no _SUCCESS ({len(missing)} of {len(folders)} days).",
                "Load it, with _SUCCESS as its last file; then retry.",
            )
    return {
        day: [f"{folder}/{name}" for name in found[folder] if not name.startswith(("_", "."))]
        for day in wanted
        if (folder := domain.folder(table, day)) in complete
    }


def _compare(domain: repo.Domain, table: str, files: Mapping[date, Iterable[str]]) -> None:
    """Compare the columns of every file with the declared ones; only footers are read."""
    declared = dict(domain.raw[table].columns)
    paths = [(day, path) for day, names in sorted(files.items()) for path in names]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda item: _columns(item[1]), paths)
        told = [
            f"day {day}, column {name}: declared {declared.get(name, 'absent')}, found {columns.get(name, 'absent')}"
            for (day, _), columns in zip(paths, found, strict=True)
            for name in sorted({*declared, *columns})
            if declared.get(name) != columns.get(name)
        ]
    if told:
        shown = "; ".join(told[:_SHOWN]) + (f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
        raise DataError(
            f"The schema of raw table {domain.name}.{table} has changed: {shown}.",
            f"Bring {domain.path / 'raw.yaml'} and the queries in line with the data, or load the days again.",
        )


def _columns(path: str) -> dict[str, str]:
    """Return a Parquet file's columns with Spark's types."""
    try:
        with hdfs.reader(path) as file:
            schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as Parquet: {reason}", "Load that raw partition again, then retry."
        ) from None
    return {field.name: field.dataType.simpleString() for field in from_arrow_schema(schema)}
