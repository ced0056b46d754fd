"""A training set of five views: our join | Feast's own Spark store | the same rows read and written, unjoined."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from adin.connections import connection
from adin.features import repo
from adin.features.store import feature_store
from adin.problem import problem
from adin.settings import settings

PROBLEM = "flights_delay"


@dataclass(frozen=True)
class Round:
    """The entity rows of one measurement: flights of 2013, each asked for at some times before it leaves.

    :param before: flights that leave before this day.
    :param times: times of each. Default 1.
    :param stock: whether Feast's store joins them too. It pairs each entity row with each row of its keys: a year's
        rows were not joined after 13 minutes. Then the answer is compared with that of our join by sorting.
    """

    before: str
    times: int = 1
    stock: bool = False


ROUNDS = (Round("2013-03-01", stock=True), Round("2014-01-01"), Round("2014-01-01", times=7))
#: Compiles what the others run.
_WARM = Round("2013-01-03", stock=True)


def measure() -> list[dict[str, Any]]:
    """Return entity rows per second of each way; one run each, in one Spark session, warmed by a small round."""
    spec = problem(PROBLEM)
    service = repo.service(spec.domain, spec.features)
    references = [f"{view.name}:{name}" for view in service.views for name, _ in view.features]
    ours = feature_store(offline=True)
    options = {**ours.config.offline_store.model_dump(), "type": "spark"}
    options["spark_conf"] = options["spark_conf"] | {"spark.driver.memory": "4g"}
    stock = _stock(ours, options)
    return [_round(copy.copy(ours), stock, references, each) for each in (_WARM, *ROUNDS)][1:]


def _stock(ours: Any, options: dict[str, Any]) -> Any:
    """Return Feast with its own Spark store and what else ours has."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkOfflineStoreConfig

    config = ours.config.model_copy()
    # a copy keeps the store that was made for it: another offline_config alone would measure ours twice
    config._offline_store = SparkOfflineStoreConfig(**options)
    found = type(ours)(config=config)
    module = type(found._get_provider().offline_store).__module__
    assert module.startswith("feast."), f"the stock store is {module}"
    return found


def _round(ours: Any, stock: Any, references: list[str], asked: Round) -> dict[str, Any]:
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    session = SparkSession.getActiveSession() or _session()
    service = repo.service(problem(PROBLEM).domain, problem(PROBLEM).features)
    keys = sorted({key for view in service.views for key in view.keys})
    minutes = F.explode(F.array([F.lit(60 + 45 * number) for number in range(asked.times)]))
    events = session.table("flights.outcomes").where(F.col("scheduled_departure") < asked.before)
    events = events.select(*keys, "flight", "scheduled_departure", minutes.alias("before"))
    at = F.col("scheduled_departure") - F.make_interval(mins=F.col("before"))
    events = events.dropDuplicates([*keys, "flight", "scheduled_departure", "before"]).withColumn("event_timestamp", at)
    events = events.drop("scheduled_departure", "before").localCheckpoint()
    rows = events.count()
    root = f"{connection('spark').extra['namenode']}/bench/point_in_time"

    def joined(store: Any, **options: Any) -> Any:
        return store.get_historical_features(events, references, full_feature_names=True, **options).to_spark_df()

    def sorting() -> Any:
        with mock.patch.dict(os.environ, ADIN_JOIN_MEMORY_MB="0"):
            settings.cache_clear()
            frame = joined(ours)
        settings.cache_clear()
        return frame

    def bare() -> Any:
        for view in service.views:
            days = session.table(view.table).where(F.col("day") < asked.before)
            days.write.format("noop").mode("overwrite").save()
        return events

    other = "stock" if asked.stock else "sorting"
    frames = {
        "ours": lambda: joined(ours),
        other: (lambda: joined(stock, filter_by_created_timestamp=True)) if asked.stock else sorting,
        "limit": bare,
    }
    seconds = {
        name: _seconds(lambda made=made, name=name: _write(made(), f"{root}/{name}")) for name, made in frames.items()
    }
    written = {name: session.read.parquet(f"{root}/{name}") for name in ("ours", other)}
    columns = sorted(written["ours"].columns)
    differ = written["ours"].select(columns).exceptAll(written[other].select(columns)).count()
    counts = {name: frame.count() for name, frame in written.items()}
    speed = {name: round(rows / each) for name, each in seconds.items()}
    return {
        "name": "point_in_time",
        "unit": "rows/s",
        "ours": speed["ours"],
        "stock": speed.get("stock"),
        "limit": speed["limit"],
        "equal": differ == 0 and set(counts.values()) == {rows},
        "note": f"{rows:,} rows, {len(service.views)} views; rows made: {counts['ours']:,} and {counts[other]:,} "
        f"({other}, {speed[other]:,} rows/s), {differ:,} differ",
    }


def _write(frame: Any, path: str) -> None:
    frame.write.mode("overwrite").parquet(path)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _session() -> Any:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for name, value in feature_store(offline=True).config.offline_store.spark_conf.items():
        builder = builder.config(name, value)
    return builder.config("spark.driver.memory", "4g").getOrCreate()
