"""The point-in-time join in Spark.

Each view is joined by one sort: feature rows and entity rows are put into one list per key, ordered by when a row was
available, and each entity row takes the greatest (event time, created time, hash) seen so far. So nothing created after
the prediction time is used, ties have one answer, and rows are never multiplied.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from adin.features.repo import View


def join(entities: DataFrame, values: DataFrame, view: View, *, at: str = "prediction_time") -> DataFrame:
    """Give each entity row the view's features, as ``view__feature``, as they could be known at its time.

    :param entities: the view's keys, the time, and any other columns.
    :param values: the view's keys, event time, created time and features; rows without a key stand for nothing.
    :param at: column of the entity rows' time. Default ``prediction_time``.
    :returns: every entity row once, with its columns and the features; null where nothing was known, or only what is
        older than the view's TTL.
    """
    names = [name for name, _ in view.features]
    keyed = F.lit(True)
    for key in view.keys:
        keyed = keyed & F.col(key).isNotNull()
    value = F.struct(
        F.col(view.event).alias("_event"),
        F.col(view.created).alias("_created"),
        F.xxhash64(*names).alias("_hash"),
        *names,
    )
    empty = F.lit(None)
    keys = [F.col(key) for key in view.keys]
    entity_row = F.struct(*entities.columns)
    offered = values.where(keyed).select(
        *keys,
        F.greatest(view.event, view.created).alias("_at"),
        F.lit(0).alias("_asks"),
        value.alias("_value"),
        empty.cast(entities.select(entity_row.alias("r")).schema["r"].dataType).alias("_row"),
    )
    kind = offered.schema["_value"].dataType
    asked = entities.select(
        *keys,
        F.col(at).alias("_at"),
        F.lit(1).alias("_asks"),
        empty.cast(kind).alias("_value"),
        entity_row.alias("_row"),
    )
    # rows without a key find nothing: spread them, or they all meet in one task
    spread = F.when(~keyed, F.pmod(F.hash("_at", "_row"), F.lit(1024)))
    so_far = (
        Window.partitionBy(*view.keys, "_spread")
        .orderBy("_at", "_asks")
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    both = offered.unionByName(asked).withColumn("_spread", spread)
    best = both.withColumn("_best", F.max("_value").over(so_far)).where("_asks = 1")
    valid = F.lit(True)
    if view.ttl:
        ttl = F.expr(f"INTERVAL {int(view.ttl.total_seconds())} SECONDS")
        valid = F.col("_best._event") >= F.col(f"_row.{at}") - ttl
    for key in view.keys:
        valid = valid & F.col(f"_row.{key}").isNotNull()
    features = [F.when(valid, F.col(f"_best.{name}")).alias(f"{view.name}__{name}") for name in names]
    return best.select("_row.*", *features)
