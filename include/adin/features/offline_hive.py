"""The offline store's Spark edition: Hive tables on HDFS, joined by Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adin.errors import DataError
from adin.features import hdfs, hive, jobs
from adin.features.offline import Partition
from adin.settings import ROOT, settings

if TYPE_CHECKING:
    import pyarrow

    from adin.features.repo import View
    from adin.problem import Problem
    from adin.window import Window


class HiveStore:
    """See :class:`adin.features.offline.OfflineStore`."""

    code = (
        *sorted((ROOT / "include" / "spark").glob("*.py")),
        *(Path(__file__).with_name(f"{name}.py") for name in ("as_of", "point_in_time", "ties")),
    )

    def partitions(self, table: str) -> dict[str, Partition]:
        """Return the partitions the metastore has."""
        return hive.partitions(table)

    def publish(
        self, view: View, columns: Mapping[str, str], days: Mapping[str, Partition]
    ) -> tuple[list[str], list[str]]:
        """Point partitions at the staged folders."""
        return hive.publish(view.table, columns, days)

    def rows(self, view: View, days: list[str], columns: list[str]) -> Iterator[pyarrow.Table]:
        """Return the rows of each Parquet file.

        :raises DataError: also if the table lacks a column; only days published before it was added may.
        """
        if not days:
            return
        there = hive.columns(view.table)
        if lost := sorted(name for name in columns if name.lower() not in there):
            raise DataError(
                f"{view.table} lacks the columns {', '.join(lost)}.",
                "Does the view's query name them so? If they are new, ingest a day first.",
            )
        published = hive.partitions(view.table)
        for day in days:
            for path in hdfs.list_files(published[day].location):
                if path.endswith(".parquet"):
                    yield _read(path, view, columns)

    def training_set(self, spec: Problem, window: Window, table: str, key: str) -> dict[str, Any]:
        """Run the Spark job ``retrieve``."""
        arguments = {"problem": spec.name, "window": str(window), "table": table}
        result = jobs.run("retrieve", key=key, arguments=arguments)
        if not hive.exists(table):  # the result is of an earlier try which was killed after it dropped the table
            jobs.forget(key)
            result = jobs.run("retrieve", key=key, arguments=arguments)
        return result

    def forget(self, key: str) -> None:
        """Delete the job's kept result."""
        jobs.forget(key)

    def files(self, result: Mapping[str, Any]) -> list[tuple[str, Callable[[], bytes]]]:
        """Return the temporary table's own files."""
        found = [path for path in hdfs.list_files(result["location"]) if path.endswith(".parquet")]
        return [("/".join(path.split("/")[-2:]), partial(hdfs.read, path)) for path in sorted(found)]

    def temporary(self) -> dict[str, datetime]:
        """Return the tables of the temporary Hive database."""
        return hive.tables(settings().temp_database)

    def drop(self, table: str) -> None:
        """Drop the table with its files."""
        hive.drop_table(table)


def _read(path: str, view: View, columns: list[str]) -> pyarrow.Table:
    """Return columns of a file; a feature that its day was published without is null, as Spark has it.

    Names are matched as Spark does, whatever their case.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.BufferReader(hdfs.read(path))
    try:
        file = pq.ParquetFile(content)
        there = {name.lower(): name for name in file.schema_arrow.names}
        found = {name: there[name.lower()] for name in columns if name.lower() in there}
        table = file.read(columns=list(found.values())).select(list(found.values())).rename_columns(list(found))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no readable Parquet file: {error}.", "Ingest its day again.") from None
    if lost := sorted({*view.keys, view.event, view.created}.intersection(columns) - set(found)):
        raise DataError(f"{path} lacks the columns {', '.join(lost)}.", "Ingest its day again.")
    for name in columns:
        if name not in found:  # nulls without a type go together with whatever type other files have
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table.select(columns)
