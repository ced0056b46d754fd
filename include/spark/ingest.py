"""Raw day partitions of a window to the staged partitions of one feature table, checked. Publishes nothing."""

from __future__ import annotations

from typing import Any

import job
import raw
from adin.features import hdfs, hive, inputs, point_in_time, pushed, quality, repo
from adin.features.offline import offline
from adin.window import Window
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import Window as Order
from pyspark.sql import functions as F


def work(session: SparkSession, arguments: dict[str, Any]) -> dict[str, Any]:
    """Stage one view's table for the whole days of a window and count what breaks its rules."""
    domain = repo.domain(arguments["domain"])
    # a partition is replaced as a whole
    view, window = domain.view(arguments["view"]), Window.from_text(arguments["window"]).whole_days
    made_from = inputs.of(domain, view.name, window)
    for table in domain.reads[view.name]:
        raw.read(session, domain, table, window, domain.lookback[view.name]).createOrReplaceTempView(table)
    rows = _with_pushed(session, domain, view, session.sql(domain.sql(view.name, window)), window).where(
        (F.col(view.event) >= F.lit(window.start)) & (F.col(view.event) < F.lit(window.end))
    )
    location = _location(view.table, arguments["key"], session.sparkContext.applicationId)
    staged = rows.withColumn("day", F.date_format(view.event, "yyyy-MM-dd"))
    staged.repartition("day").sortWithinPartitions("day", view.event).write.mode("overwrite").partitionBy(
        "day"
    ).parquet(location)
    columns = {field.name: field.dataType.simpleString() for field in rows.schema.fields}
    found = _check(session.read.schema(staged.schema).parquet(location), domain, view)
    if not domain.static(view.name):  # a day without rows is a fact too
        for day in window.days:
            found["partitions"].setdefault(str(day), {"rows": 0, "fingerprint": "empty"})
    return found | {
        "domain": domain.name,
        "view": view.name,
        "table": view.table,
        "window": str(window),
        "location": location,
        "columns": columns,
        "inputs": made_from,
    }


def _with_pushed(
    session: SparkSession, domain: repo.Domain, view: repo.View, rows: DataFrame, window: Window
) -> DataFrame:
    """Add what users pushed for the window; of rows with the same keys and time the one that counts stays."""
    if view.name not in domain.pushed:
        return rows
    files = [path for day in window.days for path in pushed.files(domain, view.name, day)]
    if not files:
        return rows
    found = session.read.option("mergeSchema", "true").parquet(*files)
    # definitions may have changed since the push: what is no more is left out, what is new is null
    columns = [
        (F.col(field.name) if field.name in found.columns else F.lit(None)).cast(field.dataType).alias(field.name)
        for field in rows.schema.fields
    ]
    keys = view.keys or (rows.columns[0],)
    worth = [each.desc_nulls_last() for each in point_in_time.worth(view)]
    # rows that serve alike may differ in other columns
    newest = Order.partitionBy(*keys, view.event).orderBy(*worth, F.desc(F.xxhash64(*rows.columns)))
    both = rows.unionByName(found.select(*columns)).withColumn("_place", F.row_number().over(newest))
    return both.where("_place = 1").drop("_place")


def _location(table: str, key: str, application: str) -> str:
    """Return a folder no run wrote to before; remove what earlier tries of this one left unpublished."""
    root = f"{hive.table_folder(table)}/data"
    published = {part.location.rpartition("/")[0].rpartition("/")[2] for part in offline().partitions(table).values()}
    for name in hdfs.folders(root):
        if name.startswith(f"{key}.") and name not in published:
            hdfs.delete(f"{root}/{name}")
    return f"{root}/{key}.{application}"


def _check(staged: DataFrame, domain: repo.Domain, view: repo.View) -> dict[str, Any]:
    """Return rows and fingerprint of each staged day, and the rules it breaks, from one pass over it."""
    schemas = repo.quality(domain.name)
    rules = quality.compile_schema(schemas[view.name]) if view.name in schemas else []
    content = [name for name in staged.columns if name != "day"]
    staged.select("*", F.xxhash64(*content).alias("_hash")).createOrReplaceTempView("staged")
    keys = view.keys or (content[0],)
    prints = (
        "concat(lower(hex(bit_xor(_hash))), '-', CAST(sum(CAST(_hash AS DECIMAL(38, 0))) AS STRING), '-', count(*))"
    )
    session = staged.sparkSession
    query = quality.query("staged", rules, (*keys, view.event), also={"fingerprint": prints})
    rows = [row.asDict() for row in session.sql(query).collect()]
    violations = quality.violations(rules, rows)
    unique = {rule.name: rule for rule in rules if rule.unique}
    for broken in violations:
        if broken["rule"] in unique:
            twice = session.sql(quality.repeated("staged", unique[broken["rule"]])).collect()
            broken["sample"] = [row["sample"] for row in twice]
    return {
        "partitions": {str(row["day"]): {"rows": row["rows"], "fingerprint": row["fingerprint"]} for row in rows},
        "violations": violations,
    }


if __name__ == "__main__":
    job.main(work)
