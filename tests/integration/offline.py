"""A problem's line on one machine and without servers: the domain's queries and gate, then the point-in-time join.

The code is the jobs' own; only reading raw partitions from HDFS and publishing to Hive are left out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from adin.features import point_in_time, quality, repo
from adin.problem import problem
from adin.settings import ROOT
from adin.stack import demo_data
from adin.window import Window
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(ROOT / "include" / "spark"))
import retrieve


def session(folder: Path) -> SparkSession:
    """Return a local session whose tables lie in a folder."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    conf = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.extraJavaOptions": f"-Dderby.system.home={folder}",
    }
    builder = SparkSession.builder.master("local[2]").appName("offline")
    for name, value in conf.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def raw(spark: SparkSession, domain: str, tables: dict[str, Any] | None = None) -> None:
    """Make the raw tables of a domain visible to its queries."""
    found = repo.domain(domain)
    for table, frame in (tables or demo_data.tables(domain)).items():
        columns = found.raw[table].columns
        schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        spark.createDataFrame(frame[list(columns)], schema).createOrReplaceTempView(table)


def made(spark: SparkSession, domain: str, view: str) -> DataFrame:
    """Return what a domain's query makes of all raw rows, with the day of each."""
    found = repo.domain(domain)
    span = Window.parse("1970-01-01", "2100-01-01")
    return spark.sql(found.sql(view, span)).withColumn("day", F.date_format("event_timestamp", "yyyy-MM-dd"))


def broken(spark: SparkSession, domain: str, view: str, rows: DataFrame) -> list[dict[str, Any]]:
    """Return the rules of the domain's gate which the rows break."""
    rules = quality.compile_schema(repo.quality(domain)[view])
    rows.createOrReplaceTempView("checked")
    keys = [*(repo.domain(domain).view(view).keys or rows.columns[:1]), "event_timestamp"]
    found = [row.asDict() for row in spark.sql(quality.query("checked", rules, keys)).collect()]
    return quality.violations(rules, found)


def training_set(spark: SparkSession, name: str, span: Window) -> tuple[DataFrame, dict[str, int]]:
    """Return a problem's training set for a window, and how many events there were, all and labelled."""
    spec = problem(name)
    service = repo.service(spec.domain, spec.features)
    for table in {view.table for view in service.views} | {spec.label.table}:
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {table.partition('.')[0]}")
        made(spark, spec.domain, table.partition(".")[2]).write.mode("overwrite").saveAsTable(table)
    rows, counts = retrieve._labels(spark, spec, span)
    rows = point_in_time.join(rows, [(view, retrieve._values(spark, view, spec, span)) for view in service.views])
    return retrieve._on_demand(rows, service), counts
