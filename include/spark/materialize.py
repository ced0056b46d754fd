"""Published days of a view into the online store, written by the executors."""

from __future__ import annotations

from typing import Any

import job
from adin.connections import connection
from adin.features import repo, spark_online
from adin.settings import settings
from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def work(session: SparkSession, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the newest row of each entity over some days."""
    view = repo.domain(arguments["domain"]).view(arguments["view"])
    rows = session.table(view.table).where(F.col("day").isin(arguments["days"]))
    keys, written = spark_online.write(rows, view, connection("feast"), settings().project)
    return {"keys": keys, "written": written}


if __name__ == "__main__":
    job.main(work, tables=True)
