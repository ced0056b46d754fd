"""The offline store in two editions behind one interface: Hive tables worked on by Spark, or PostgreSQL.

``ADIN_OFFLINE_STORE`` chooses. Definitions, queries, gate and everything after the training set are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adin.settings import settings

if TYPE_CHECKING:
    import pyarrow

    from adin.features.repo import View
    from adin.problem import Problem
    from adin.window import Window

#: Rows in one file of a training set.
ROWS_A_FILE = 250_000


@dataclass(frozen=True)
class Partition:
    """One day of a feature table.

    :param location: HDFS folder of its files, never written again once published; empty where HDFS does not keep it.
    :param fingerprint: hash of its rows, whatever their order.
    """

    location: str
    fingerprint: str
    rows: int
    run_key: str = ""


class OfflineStore(Protocol):
    """Feature tables by day, and training sets joined from them.

    :ivar code: the files that make a training set what it is.
    """

    code: tuple[Path, ...]

    def partitions(self, table: str) -> dict[str, Partition]:
        """Return the published days of a table, ``domain.view``; none if there is no such table."""
        ...

    def publish(
        self, view: View, columns: Mapping[str, str], days: Mapping[str, Partition]
    ) -> tuple[list[str], list[str]]:
        """Make staged days visible in one step; days whose rows are what they were are not touched.

        :param columns: the table's columns with Hive types, without ``day``.
        :param days: where each day is staged in HDFS.
        :returns: days that were new, days that changed.
        """
        ...

    def rows(self, view: View, days: list[str], columns: list[str]) -> Iterator[pyarrow.Table]:
        """Return the published rows of some days, one day after another, a bounded number at a time.

        :raises DataError: what was published can no longer be read.
        """
        ...

    def training_set(self, spec: Problem, window: Window, table: str, key: str) -> dict[str, Any]:
        """Join a problem's training set point in time into a temporary table.

        :param table: ``database.table``; what a killed try left there is replaced.
        :param key: run key; a retry finds the work of an earlier try where the engine keeps it.
        :returns: ``table``, ``rows`` by split, ``dropped_unlabelled``, ``columns`` with the engine's types.
        :raises DataError: no labelled event in the window, or the join lost or repeated a row.
        """
        ...

    def forget(self, key: str) -> None:
        """Let the next try of a run join anew."""
        ...

    def files(self, result: Mapping[str, Any]) -> list[tuple[str, Callable[[], bytes]]]:
        """Return the training set as Parquet files: path ``split=<split>/<name>.parquet``, and how to read each.

        The same rows always stand in the same files and order.
        """
        ...

    def temporary(self) -> dict[str, datetime]:
        """Return the temporary tables with the times they were made."""
        ...

    def drop(self, table: str) -> None:
        """Drop a temporary table; no error if it is gone."""
        ...


def offline() -> OfflineStore:
    """Return the offline store of this installation."""
    if settings().offline_store == "postgres":
        from adin.features.offline_postgres import PostgresStore

        return PostgresStore()
    from adin.features.offline_hive import HiveStore

    return HiveStore()
