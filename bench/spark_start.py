"""Seconds of one day's ingest in a Spark of its own: ours | Spark's own options for Java | a Spark that does nothing.

Ours starts from the archive of classes that set-up made. The limit is `spark-submit --version`: Java, started twice.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from adin.connections import Connection, connection
from adin.features import hdfs, jobs
from adin.features.spark_submit import spark_submit

ROUNDS = 5
_WORK = {"domain": "flights", "view": "weather", "window": "2013-03-01/2013-03-02"}


def measure() -> list[dict[str, Any]]:
    """Return seconds per job; both stage the same partitions, which are not published."""
    ours = connection("spark")
    options = {"spark.driver.extraJavaOptions": ""}
    sides = {"ours": ours, "stock": replace(ours, extra=ours.extra | {"conf": options})}
    spent: dict[str, list[float]] = {"ours": [], "stock": [], "limit": []}
    for _ in range(ROUNDS):
        staged = []
        for name, conn in sides.items():
            began = time.perf_counter()
            staged.append(_ingest(conn))
            spent[name].append(time.perf_counter() - began)
        assert staged[0] == staged[1], "the partitions differ"
        began = time.perf_counter()
        assert spark_submit(["--version"], {}, Path(__file__), "")[0] == 0
        spent["limit"].append(time.perf_counter() - began)
    median = {name: round(statistics.median(each), 2) for name, each in spent.items()}
    return [{"name": "spark_start", "unit": "s", **median, "equal": True, "note": f"median of {ROUNDS} jobs"}]


def _ingest(conn: Connection) -> dict[str, Any]:
    key = f"bench-{uuid4().hex}"
    result = jobs.run("ingest", key=key, arguments=_WORK, conn=conn)
    hdfs.delete(result["location"])
    jobs.forget(key)
    return dict(result["partitions"])
