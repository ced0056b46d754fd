"""The point-in-time training set of a problem, into a temporary Hive table."""

from __future__ import annotations

from typing import Any

import job
import pandas as pd
from adin.errors import DataError
from adin.features import hdfs, hive, point_in_time, repo
from adin.features.offline import ROWS_A_FILE
from adin.problem import Problem, problem
from adin.window import Window as Span
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

_TYPES = {
    "Float32": T.FloatType(),
    "Float64": T.DoubleType(),
    "Int32": T.IntegerType(),
    "Int64": T.LongType(),
    "String": T.StringType(),
    "Bool": T.BooleanType(),
    "UnixTimestamp": T.TimestampType(),
}


def work(session: SparkSession, arguments: dict[str, Any]) -> dict[str, Any]:
    """Join, split and write one training set."""
    spec, span = problem(arguments["problem"]), Span.from_text(arguments["window"])
    service = repo.service(spec.domain, spec.features)
    labelled, counts = _labels(session, spec, span)
    joined = point_in_time.join(labelled, [(view, _values(session, view, spec, span)) for view in service.views])
    joined = _on_demand(joined, service).withColumnsRenamed({"prediction_time": "event_timestamp"})
    keys = [name for name in labelled.columns if name not in {"prediction_time", "split", spec.label.column}]
    chosen = joined.select(*keys, "event_timestamp", *service.columns, spec.label.column, "split")
    table = arguments["table"]
    rows = _write(session, chosen, table, counts["labelled"])
    if sum(rows.values()) != counts["labelled"]:
        hive.drop_table(table)
        raise DataError(
            f"The join made {sum(rows.values())} rows of {counts['labelled']} labelled rows; {table} was dropped.",
            "The label table changed during the join: run the task again.",
        )
    order = {split: rows.get(split, 0) for split in ("train", "validate", "test")}
    columns = {field.name: field.dataType.simpleString() for field in chosen.schema.fields}
    unlabelled = counts["all"] - counts["labelled"]
    location = session.sql(f"DESCRIBE FORMATTED {table}").where("col_name = 'Location'").collect()[0]["data_type"]
    return {
        "table": table,
        "location": location,
        "rows": order,
        "dropped_unlabelled": unlabelled,
        "columns": columns,
    }


def _write(session: SparkSession, rows: DataFrame, table: str, expected: int) -> dict[str, int]:
    """Write the training set and count it by split. The same rows always lie in the same files and order."""
    database, folder = table.partition(".")[0], hive.table_folder(table)
    hive.drop_table(table)
    hdfs.delete(folder)  # a job that was killed leaves files without a table
    session.sql(f"CREATE DATABASE IF NOT EXISTS {database} LOCATION '{folder.rpartition('/')[0]}'")
    files = max(2, -(-expected // ROWS_A_FILE))
    identity = [name for name in rows.columns if "__" not in name and name != "split"]
    placed = rows.repartition(files, *identity).sortWithinPartitions("split", "event_timestamp", *identity)
    placed.write.format("parquet").partitionBy("split").saveAsTable(table)
    return {row["split"]: row["count"] for row in session.table(table).groupBy("split").count().collect()}


def _labels(session: SparkSession, spec: Problem, span: Span) -> tuple[DataFrame, dict[str, int]]:
    """Return the labelled events of the window with their prediction time and split, and how many there were.

    What became known after the window's end is not there yet: a window gives the same set whenever it is asked for.
    """
    waited = F.expr(f"INTERVAL {int(spec.label.known_after.total_seconds())} SECONDS")
    event, end = F.col(spec.event_time), F.lit(span.end)
    known = session.table(spec.label.table).where(
        (F.col("day") >= f"{span.days[0]}") & (F.col("day") <= f"{span.days[-1]}")
    )
    known = known.where((event >= F.lit(span.start)) & (event < end) & (event <= end - waited))
    known = known.where(F.col("created_timestamp") < end)
    validate, test = spec.split.bounds(span.end)
    split = F.when(event < F.lit(validate), "train").when(event < F.lit(test), "validate").otherwise("test")
    before = F.expr(f"INTERVAL {int(spec.predict_before.total_seconds())} SECONDS")
    rows = known.drop("event_timestamp", "created_timestamp", "day").withColumns(
        {"prediction_time": event - before, "split": split}
    )
    counted = rows.agg(F.count("*").alias("all"), F.count(spec.label.column).alias("labelled")).collect()[0].asDict()
    if not counted["labelled"]:
        raise DataError(f"{spec.label.table} has no labelled row in {span}.", "Run the features DAG for the window.")
    return rows.where(F.col(spec.label.column).isNotNull()), counted


def _values(session: SparkSession, view: repo.View, spec: Problem, span: Span) -> DataFrame:
    """Return a view's rows which an event of the window may see."""
    rows = session.table(view.table).where(F.col("day") <= f"{span.days[-1]}")
    if view.ttl:
        oldest = span.start - spec.predict_before - view.ttl
        rows = rows.where(F.col("day") >= f"{oldest:%Y-%m-%d}")
    return rows.drop("day")


def _on_demand(rows: DataFrame, service: repo.Service) -> DataFrame:
    """Add the on-demand features by the same pandas functions that serving uses."""
    if not service.on_demand:
        return rows
    made = T.StructType([T.StructField(column, _TYPES[kind]) for column, kind in service.on_demand_types()])
    views = service.on_demand
    asked = sorted({name for view in views for name in view.inputs.values()})

    def add(inputs: pd.DataFrame) -> pd.DataFrame:
        return repo.with_on_demand(inputs, views)[made.names]

    # only what the functions ask for goes through Python
    features = F.pandas_udf(add, made)(F.struct(*asked))  # type: ignore[call-overload]
    return rows.withColumn("_made", features).select(*rows.columns, "_made.*")


if __name__ == "__main__":
    job.main(work, tables=True)
