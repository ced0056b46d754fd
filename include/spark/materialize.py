"""Published days of a view into the online store, written by the executors."""

from __future__ import annotations

import math
from typing import Any

import job
from adin.connections import connection
from adin.features import repo, spark_online
from adin.settings import settings
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

#: Rows of the window that a task works on: few enough that the end of one is progress.
_TASK = 1_000_000


def work(session: SparkSession, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the newest row of each entity over some days."""
    view = repo.domain(arguments["domain"]).view(arguments["view"])
    rows = session.table(view.table).where(F.col("day").isin(arguments["days"])).select(*view.columns)
    tasks = max(int(session.conf.get("spark.sql.shuffle.partitions")), math.ceil(arguments["rows"] / _TASK))
    with job.telling(session, arguments):
        keys, written = spark_online.write(
            rows.repartition(tasks, *view.keys), view, connection("feast"), settings().project
        )
    return {"keys": keys, "written": written}


if __name__ == "__main__":
    job.main(work, tables=True)
