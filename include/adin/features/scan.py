"""The rows of a frame at the driver, read by Arrow where the frame is nothing but Parquet files.

A table of days is many small files, and each costs Spark more than its rows do.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from adin.connections import connection
from adin.features import hdfs

#: Files read at once; more wait for the NameNode than for a core.
_AT_ONCE = 8


def collect(rows: DataFrame) -> pa.Table:
    """Return a frame's rows, with times in UTC.

    A frame that chooses columns, and partitions, of Parquet files in our HDFS is read without Spark; any other, and
    files which Arrow cannot read as the frame's columns, by Spark.
    """
    schema = to_arrow_schema(rows.schema, timezone="UTC")
    try:
        paths = _files(rows)
        if paths is not None:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                parts = list(pool.map(lambda path: _read(path, schema), paths))
            return pa.concat_tables([schema.empty_table(), *parts])
    except (pa.ArrowException, KeyError):
        pass  # an older file lacks a column, or has it as another type
    return rows.toArrow().cast(schema)


def _read(path: str, schema: pa.Schema) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(hdfs.read(path)), coerce_int96_timestamp_unit="us") as file:
        return file.read(schema.names, use_threads=False).select(schema.names).cast(schema)


def _files(rows: DataFrame) -> list[str] | None:
    """Return the files whose rows the frame has, None if it is anything else than their rows."""
    plan: Any = rows._jdf.queryExecution().optimizedPlan()
    columns, filtered = set(rows.columns), set[str]()
    while (kind := plan.nodeName()) in ("Project", "Filter"):
        if kind == "Filter":
            condition = plan.condition()
            # neither chooses partitions: what is left to chance, and what another query has to answer first
            if not condition.deterministic() or "subquery" in condition.toString():
                return None
            filtered |= {found.name() for found in _each(plan.references().toSeq())}
        elif any(found.nodeName() != "AttributeReference" for found in _each(plan.projectList())):
            return None
        plan = plan.children().head()
    if kind != "LogicalRelation" or plan.relation().getClass().getSimpleName() != "HadoopFsRelation":
        return None
    relation = plan.relation()
    days = set(relation.partitionSchema().fieldNames())
    if relation.fileFormat().toString() != "Parquet" or columns & days or not filtered <= days:
        return None
    # partitions of a catalogue's table are chosen by the plan, those of a bare path not before it is run
    if filtered and plan.catalogTable().isEmpty():
        return None
    namenode = str(connection("spark").extra["namenode"])
    paths = list(rows.inputFiles())
    return paths if all(urlsplit(path)[:2] == urlsplit(namenode)[:2] for path in paths) else None


def _each(found: Any) -> list[Any]:
    return [found.apply(place) for place in range(found.size())]
