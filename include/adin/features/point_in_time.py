"""The point-in-time join in Spark: each entity row once, with what could be known of its keys at its time.

Nothing created after the prediction time is used, ties have one answer, and rows are never multiplied. Views that fit
in memory are looked up row by row (:mod:`.as_of`); others are joined by one sort each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from adin.features import as_of, ties
from adin.features.as_of import Seen, micros
from adin.features.repo import View
from adin.features.scan import collect
from adin.settings import settings

# the Python of Spark's workers has Arrow and numpy, not necessarily this package
cloudpickle.register_pickle_by_value(as_of)
cloudpickle.register_pickle_by_value(ties)


#: View -> those of its features that are wanted; all of a view that is not named. The others only decide ties.
Answers = Mapping[str, Sequence[str]]


def join(
    entities: DataFrame,
    views: Sequence[tuple[View, DataFrame]],
    *,
    at: str = "prediction_time",
    answers: Answers | None = None,
) -> DataFrame:
    """Give each entity row the views' features, as ``view__feature``, as they could be known at its time.

    :param entities: the views' keys, the time, and any other columns.
    :param views: each with its rows: keys, event time, created time and features; rows without a key stand for nothing.
    :param at: column of the entity rows' time. Default ``prediction_time``.
    :param answers: see :data:`Answers`. Default all features.
    :returns: every entity row once, with its columns and the features; null where nothing was known, or only what is
        older than the view's TTL.
    """
    small: list[tuple[View, DataFrame]] = []
    large: list[tuple[View, DataFrame]] = []
    for view, rows in views:
        (small if _bytes(rows) <= settings().join_memory_mb * 1e6 else large).append((view, rows))
    joined = in_memory(entities, small, at=at, answers=answers) if small else entities
    for view, rows in large:
        joined = by_sorting(joined, rows, view, at=at, answers=answers)
    features = [f"{view.name}__{name}" for view, _ in views for name in _wanted(view, answers)]
    return joined.select(*entities.columns, *features)


def _wanted(view: View, answers: Answers | None) -> list[str]:
    return list((answers or {}).get(view.name, dict(view.features)))


def in_memory(
    entities: DataFrame, views: Sequence[tuple[View, DataFrame]], *, at: str, answers: Answers | None = None
) -> DataFrame:
    """Join as :func:`join` does, with the answers of all rows in the memory of each Python worker."""
    fields, seen = list(entities.schema.fields), []
    for view, rows in views:
        chosen, wanted = rows.select(*view.columns), _wanted(view, answers)
        seen.append((view.keys, Seen(view, collect(chosen), wanted)))
        fields += [T.StructField(f"{view.name}__{name}", chosen.schema[name].dataType) for name in wanted]
    names = [field.name for field in fields]

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            times, columns = micros(batch[at]), list(batch.columns)
            for keys, values in seen:
                columns += values.take(values.find([batch[key] for key in keys], times))
            yield pa.RecordBatch.from_arrays(columns, names)

    # Spark sends a function this large to each worker once
    return entities.mapInArrow(add, T.StructType(fields))


def worth(view: View) -> list[Column]:
    """Return what decides which of a key's rows counts, as :mod:`.ties` has it: the greatest, null being the lowest."""
    marks = [F.col(view.deleted).cast("boolean").eqNullSafe(True).alias("_deleted")] if view.deleted else []
    created = F.coalesce(view.created, view.event).alias("_created")
    return [F.col(view.event).alias("_event"), created, *marks, *(F.col(name) for name, _ in view.features)]


def _keyed(view: View) -> Column:
    keyed = F.lit(True)
    for key in view.keys:
        keyed = keyed & F.col(key).isNotNull()
    return keyed


def _bytes(rows: DataFrame) -> int:
    """Return what Spark thinks that rows take, by the sizes of their files."""
    return int(str(rows._jdf.queryExecution().optimizedPlan().stats().sizeInBytes()))


def by_sorting(
    entities: DataFrame, values: DataFrame, view: View, *, at: str, answers: Answers | None = None
) -> DataFrame:
    """Join one view as :func:`join` does, by one sort.

    Feature rows and entity rows are put into one list per key, ordered by when a row was available, and each entity row
    takes the greatest (event time, created time, features) seen so far.
    """
    keyed = _keyed(view)
    value = F.struct(*worth(view))
    empty = F.lit(None)
    keys = [F.col(key) for key in view.keys]
    entity_row = F.struct(*entities.columns)
    offered = values.where(keyed & F.col(view.event).isNotNull()).select(
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
    wanted = _wanted(view, answers)
    features = [F.when(valid, F.col(f"_best.{name}")).alias(f"{view.name}__{name}") for name in wanted]
    return best.select("_row.*", *features)
