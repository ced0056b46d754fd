"""Raw day partitions of a window to the staged partitions of one feature table, checked. Publishes nothing."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import job
from adin.errors import DataError
from adin.features import hdfs, hive, quality, repo
from adin.window import Window
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F


def work(session: SparkSession, arguments: dict[str, Any]) -> dict[str, Any]:
    """Stage one view's table for a window and count what breaks its rules."""
    domain = repo.domain(arguments["domain"])
    view, window = domain.view(arguments["view"]), Window.from_text(arguments["window"])
    first = (window.start - domain.lookback[view.name]).date()
    days = [first + timedelta(days=n) for n in range((window.days[-1] - first).days + 1)]
    for table in domain.reads[view.name]:
        _raw(session, domain, table, days, window).createOrReplaceTempView(table)
    rows = session.sql(domain.sql(view.name, window)).where(
        (F.col(view.event) >= F.lit(window.start)) & (F.col(view.event) < F.lit(window.end))
    )
    location = f"{hive.table_folder(view.table)}/data/{arguments['key']}"
    staged = rows.withColumn("day", F.date_format(view.event, "yyyy-MM-dd"))
    staged.repartition("day").sortWithinPartitions("day", view.event).write.mode("overwrite").partitionBy(
        "day"
    ).parquet(location)
    columns = {field.name: field.dataType.simpleString() for field in rows.schema.fields}
    found = _check(session.read.schema(staged.schema).parquet(location), domain, view)
    static = any(domain.raw[table].static for table in domain.reads[view.name])
    if not static:  # a day without rows is a fact too
        for day in window.days:
            found["partitions"].setdefault(str(day), {"rows": 0, "fingerprint": "empty"})
    return found | {
        "domain": domain.name,
        "view": view.name,
        "table": view.table,
        "window": str(window),
        "location": location,
        "columns": columns,
    }


def _raw(session: SparkSession, domain: repo.Domain, table: str, days: list[date], window: Window) -> DataFrame:
    """Return a raw table's rows of some days, after its files were compared with the declared columns."""
    declared = domain.raw[table]
    schema = ", ".join(f"{name} {kind}" for name, kind in declared.columns.items())
    files = set(hdfs.list_files(domain.table_folder(table)))
    present = [day for day in days if f"{domain.folder(table, day)}/_SUCCESS" in files]
    missing = [day for day in days if day not in present and day in window.days]
    if missing and not declared.static:
        raise DataError(
            f"Raw partition {domain.folder(table, missing[0])} is missing ({len(missing)} of {len(days)} days).",
            "Load it, with _SUCCESS as its last file; then retry.",
        )
    if not present:
        return session.createDataFrame([], schema)
    paths = [domain.folder(table, day) for day in present]
    found = session.read.option("mergeSchema", "true").parquet(*paths)
    actual = {field.name: field.dataType.simpleString() for field in found.schema.fields if field.name != "day"}
    if actual != dict(declared.columns):
        told = [
            f"{name}: declared {declared.columns.get(name, 'absent')}, found {actual.get(name, 'absent')}"
            for name in sorted({*actual, *declared.columns})
            if actual.get(name) != declared.columns.get(name)
        ]
        raise DataError(
            f"The schema of {domain.folder(table, present[0])} .. day={present[-1]} has changed: {'; '.join(told)}.",
            f"Bring {domain.path / 'raw.yaml'} and the queries in line with the data.",
        )
    return session.read.schema(schema).parquet(*paths)


def _check(staged: DataFrame, domain: repo.Domain, view: repo.View) -> dict[str, Any]:
    """Return rows and fingerprint of each staged day, and the rules it breaks, from one pass over it."""
    schemas = repo.quality(domain.name)
    rules = quality.compile_schema(schemas[view.name]) if view.name in schemas else []
    content = [name for name in staged.columns if name != "day"]
    staged.select("*", F.xxhash64(*content).alias("_hash")).createOrReplaceTempView("staged")
    keys = view.keys or (content[0],)
    query = quality.query("staged", rules, (*keys, view.event))
    prints = (
        "concat(lower(hex(bit_xor(_hash))), '-', CAST(sum(CAST(_hash AS DECIMAL(38, 0))) AS STRING), '-', count(*))"
    )
    rows = [
        row.asDict()
        for row in staged.sparkSession.sql(query.replace(" FROM ", f", {prints} AS print FROM ", 1)).collect()
    ]
    return {
        "partitions": {str(row["day"]): {"rows": row["rows"], "fingerprint": row["print"]} for row in rows},
        "violations": quality.violations(rules, rows),
    }


if __name__ == "__main__":
    job.main(work)
