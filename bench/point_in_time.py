"""A training set of five views: our join | Feast's own Spark store | the same rows read and written, unjoined."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from adin.connections import connection
from adin.features import repo
from adin.features.store import feature_store
from adin.problem import problem

PROBLEM = "flights_delay"
#: Entity rows of a round: those of the year, and every flight asked for again at seven earlier times.
TIMES_ASKED = (1, 7)
#: Feast's store pairs each entity row with each row of its keys: with seven times it was not done after 95 minutes.
STOCK_ASKED = 1


def measure() -> list[dict[str, Any]]:
    """Return entity rows per second of each way; one round each, in one Spark session, warmed by a small round."""
    spec = problem(PROBLEM)
    service = repo.service(spec.domain, spec.features)
    references = [f"{view.name}:{name}" for view in service.views for name, _ in view.features]
    ours = feature_store(offline=True)
    options = {**ours.config.offline_store.model_dump(), "type": "spark"}
    options["spark_conf"] = options["spark_conf"] | {"spark.driver.memory": "4g"}
    stock = _stock(ours, options)
    found = []
    for asked in (0, *TIMES_ASKED):
        row = _round(copy.copy(ours), stock, references, asked)
        if asked:
            found.append(row)
    return found


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


def _round(ours: Any, stock: Any, references: list[str], asked: int) -> dict[str, Any]:
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    session = SparkSession.getActiveSession() or _session()
    service = repo.service(problem(PROBLEM).domain, problem(PROBLEM).features)
    keys = sorted({key for view in service.views for key in view.keys})
    minutes = F.explode(F.array([F.lit(60 + 45 * number) for number in range(max(1, asked))]))
    events = session.table("flights.outcomes").select(*keys, "flight", "scheduled_departure", minutes.alias("before"))
    at = F.col("scheduled_departure") - F.make_interval(mins=F.col("before"))
    events = events.dropDuplicates([*keys, "flight", "scheduled_departure", "before"]).withColumn("event_timestamp", at)
    if not asked:
        events = events.limit(1000)
    events = events.drop("scheduled_departure", "before").localCheckpoint()
    rows = events.count()
    root = f"{connection('spark').extra['namenode']}/bench/point_in_time"

    def joined(store: Any) -> Any:
        return store.get_historical_features(
            events,
            references,
            full_feature_names=True,
            **({"filter_by_created_timestamp": True} if store is stock else {}),
        ).to_spark_df()

    def bare() -> Any:
        for view in service.views:
            session.table(view.table).write.format("noop").mode("overwrite").save()
        return events

    frames = {"ours": lambda: joined(ours), "stock": lambda: joined(stock), "limit": bare}
    if asked > STOCK_ASKED:
        del frames["stock"]
    seconds = {
        name: _seconds(lambda made=made, name=name: _write(made(), f"{root}/{name}")) for name, made in frames.items()
    }
    written = {name: session.read.parquet(f"{root}/{name}") for name in frames if name != "limit"}
    columns = sorted(written["ours"].columns)
    differ = [written["ours"].select(columns).exceptAll(each.select(columns)).count() for each in written.values()]
    counts = {name: frame.count() for name, frame in written.items()}
    return {
        "name": "point_in_time",
        "unit": "rows/s",
        "stock": None,
        **{name: round(rows / each) for name, each in seconds.items()},
        "equal": not any(differ) and set(counts.values()) == {rows},
        "note": f"{rows:,} rows, {len(service.views)} views; rows made: {counts}; {max(differ):,} differ",
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
