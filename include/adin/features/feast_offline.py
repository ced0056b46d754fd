"""The point-in-time join for users of Feast itself.

``offline_store: {type: adin.features.feast_offline.PointInTimeOfflineStore}`` in ``feature_store.yaml``. It is Feast's
Spark store with another ``get_historical_features``: composite keys are kept apart, nothing created after an entity
row's time is used, ties have one answer, no row is repeated, and no view is left in the session. The stock join's
faults: feast-dev/feast#6615, docs/offline-store.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
from feast import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.spark_offline_store import spark as stock
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from adin.errors import ConfigError
from adin.features import point_in_time, repo
from adin.features.feast_request import Request, Wanted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PointInTimeOfflineStoreConfig(stock.SparkOfflineStoreConfig):
    """Options of Feast's Spark store."""

    type: Literal["adin.features.feast_offline.PointInTimeOfflineStore"] = (
        "adin.features.feast_offline.PointInTimeOfflineStore"
    )


class PointInTimeRetrievalJob(stock.SparkRetrievalJob):
    """A joined frame that has not been worked out yet."""

    def __init__(self, joined: DataFrame, **kwargs: Any) -> None:
        super().__init__(query="", **kwargs)
        self._joined = joined

    def to_spark_df(self) -> DataFrame:
        """Return the joined frame, without on-demand features, as Feast's own job does."""
        return self._joined


class PointInTimeOfflineStore(stock.SparkOfflineStore):
    """Feast's Spark store with a join that is right."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | DataFrame | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> PointInTimeRetrievalJob:
        """Return the features of entity rows; parameters are those of Feast.

        :param entity_df: keys and event timestamp as a pandas or Spark frame, or an SQL query.
        :raises ConfigError: no entity rows are given, or a view maps columns or keys to other names.
        :raises FeastEntityDFMissingColumnsError: the entity rows lack a key.
        """
        if entity_df is None:
            raise ConfigError("Entity rows are needed: pass entity_df.")
        request = Request(config, feature_views, feature_refs, registry, project, full_feature_names)
        session = stock.get_spark_session_or_start_new_with_repoconfig(config.offline_store)
        if session.sparkContext.master.startswith("local"):
            session.sparkContext.pythonExec = sys.executable  # else the first python3 on the path
        at = offline_utils.infer_event_timestamp_from_entity_df(stock._get_entity_schema(session, entity_df))
        rows = _frame(session, entity_df, at)
        asked = list(rows.columns)
        wanted = request.wanted(asked)
        first, last = _span(rows, at)
        views = [_values(session, each, first, last) for each in wanted]
        chosen = [
            F.col(f"{each.view.name}__{name}").alias(column) for each in wanted for name, column in each.columns.items()
        ]
        answers = {each.view.name: list(each.columns) for each in wanted}
        joined = point_in_time.join(rows, views, at=at, answers=answers)
        return PointInTimeRetrievalJob(
            joined.select(*asked, *chosen), spark_session=session, **request.job(asked, at, (first, last))
        )


def _frame(session: SparkSession, entity_df: pd.DataFrame | str | DataFrame, at: str) -> DataFrame:
    """Return entity rows as a Spark frame; times without a zone are UTC."""
    if isinstance(entity_df, pd.DataFrame):
        entity_df = session.createDataFrame(entity_df.assign(**{at: pd.to_datetime(entity_df[at], utc=True)}))
    elif isinstance(entity_df, str):
        entity_df = session.sql(entity_df)
    return entity_df.withColumn(at, F.col(at).cast("timestamp"))


def _span(rows: DataFrame, at: str) -> tuple[datetime | None, datetime | None]:
    """Return the first and the last time; PySpark would give them in this machine's time zone."""
    found = rows.agg(F.min(F.unix_micros(at)), F.max(F.unix_micros(at))).first() or (None, None)
    first, last = (None if each is None else _EPOCH + timedelta(microseconds=each) for each in found)
    return first, last


def _values(
    session: SparkSession, wanted: Wanted, first: datetime | None, last: datetime | None
) -> tuple[repo.View, DataFrame]:
    """Return the rows an entity row may see, by partitions where the source has them, and the view as these have it.

    All features are read, for all decide which of tied rows counts, but those that the source lacks.
    """
    view, source = wanted.view, wanted.source
    rows = session.sql(f"SELECT * FROM {source.get_table_query_string()}")  # noqa: S608 - Feast's own text
    day = getattr(source, "date_partition_column", None)
    if day and first and last:
        form = getattr(source, "date_partition_column_format", "") or "%Y-%m-%d"
        rows = rows.where(F.col(day) <= last.strftime(form))
        if view.ttl:
            rows = rows.where(F.col(day) >= (first - view.ttl).strftime(form))
    # Spark orders no maps
    decide = {field.name.lower() for field in rows.schema if "map<" not in field.dataType.simpleString()}
    features = tuple(each for each in view.features if each[0] in wanted.columns or each[0].lower() in decide)
    view = replace(view, features=features, deleted=view.deleted if view.deleted.lower() in decide else "")
    return view, rows.select(*view.columns)
