"""Writing to the online store from Spark's executors."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from adin.connections import Connection
from adin.features.point_in_time import worth
from adin.features.repo import View
from adin.features.writer import Newest
from adin.features.writer import write as write_rows


def write(rows: DataFrame, view: View, conn: Connection, project: str) -> tuple[int, int]:
    """Reduce rows to the newest of each key and write these from the executors; return entities and changes.

    A task that Spark runs twice changes nothing. The connection goes to the executors within the task, on no
    command line.
    """

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        keys = written = 0

        def hand_on(table: pa.Table) -> None:
            nonlocal keys, written
            keys += table.num_rows
            written += write_rows(view, table, conn=conn, project=project).written

        newest = Newest(view, hand_on, project)
        for batch in batches:
            newest.add(pa.Table.from_batches([batch]))
        newest.finish()
        yield pa.RecordBatch.from_pydict({"keys": [keys], "written": [written]})

    order = Window.partitionBy(*view.keys).orderBy(*(each.desc_nulls_last() for each in worth(view)))
    keyed = rows.select(*view.columns).dropna(subset=[*view.keys, view.event])
    newest = keyed.withColumn("_place", F.row_number().over(order)).where("_place = 1").drop("_place")
    sent = newest.mapInArrow(send, "keys long, written long")
    found = sent.agg(F.sum("keys").alias("keys"), F.sum("written").alias("written")).collect()[0]
    return int(found["keys"] or 0), int(found["written"] or 0)
