"""The point-in-time join for users of Feast itself.

``offline_store: {type: adin.features.feast_offline.PointInTimeOfflineStore}`` in ``feature_store.yaml``. It is Feast's
Spark store with another ``get_historical_features``: composite keys are kept apart, nothing created after an entity
row's time is used, ties have one answer, no row is repeated, and no view is left in the session. The stock join's
faults: feast-dev/feast#6615, docs/offline-store.md.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
from feast import FeatureView, OnDemandFeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.spark_offline_store import spark as stock
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from adin.errors import ConfigError
from adin.features import point_in_time, repo

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
        """
        if entity_df is None:
            raise ConfigError("Entity rows are needed: pass entity_df.")
        session = stock.get_spark_session_or_start_new_with_repoconfig(config.offline_store)
        if session.sparkContext.master.startswith("local"):
            session.sparkContext.pythonExec = sys.executable  # else the first python3 on the path
        at = offline_utils.infer_event_timestamp_from_entity_df(stock._get_entity_schema(session, entity_df))
        rows = _frame(session, entity_df, at)
        first, last = _span(rows, at)
        asked = list(rows.columns)
        offline_utils.assert_expected_columns_in_entity_df(
            dict.fromkeys(asked), offline_utils.get_expected_join_keys(project, feature_views, registry), at
        )
        entities = {each.name: each for each in registry.list_entities(project, allow_cache=True)}
        views, chosen = [], []
        for found, names in _requested(feature_refs, feature_views):
            view = _view(found, entities, names)
            views.append((view, _values(session, found, view, first, last)))
            chosen += [
                F.col(f"{view.name}__{name}").alias(f"{view.name}__{name}" if full_feature_names else name)
                for name in names
            ]
        joined = point_in_time.join(rows, views, at=at)
        return PointInTimeRetrievalJob(
            joined.select(*asked, *chosen),
            spark_session=session,
            full_feature_names=full_feature_names,
            config=config,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in asked if name != at],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
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


def _requested(feature_refs: list[str], feature_views: list[FeatureView]) -> list[tuple[FeatureView, list[str]]]:
    """Return each view that is asked for with its features, in the order of the references."""
    known = {found.projection.name_to_use(): found for found in feature_views}
    names: dict[str, list[str]] = {}
    for reference in feature_refs:
        view, _, feature = reference.partition(":")
        if view in known:  # the others are on-demand views, which Feast works out afterwards
            names.setdefault(view, []).append(feature)
    for found in feature_views:  # inputs of on-demand views
        names.setdefault(found.projection.name_to_use(), [feature.name for feature in found.features])
    return [(known[view], chosen) for view, chosen in names.items()]


def _view(found: FeatureView, entities: dict[str, Any], names: list[str]) -> repo.View:
    if found.projection.join_key_map or found.batch_source.field_mapping:
        raise ConfigError(
            f"{found.name} maps keys or columns to other names, which this join does not know.",
            "Name the source's columns as the view does, or use Feast's own Spark store.",
        )
    view = repo.as_view(found, entities)
    kinds = dict(view.features)
    return repo.View(
        found.projection.name_to_use(),
        view.table,
        view.keys,
        tuple((name, kinds[name]) for name in names),
        view.ttl,
        view.event,
        view.created,
        view.key_types,
    )


def _values(
    session: SparkSession, found: FeatureView, view: repo.View, first: datetime | None, last: datetime | None
) -> DataFrame:
    """Return the rows an entity row may see, by partitions where the source has them."""
    rows = session.sql(f"SELECT * FROM {found.batch_source.get_table_query_string()}")  # noqa: S608 - Feast's own text
    day = getattr(found.batch_source, "date_partition_column", None)
    if day and first and last:
        rows = rows.where(F.col(day) <= f"{last:%Y-%m-%d}")
        if view.ttl:
            rows = rows.where(F.col(day) >= f"{first - view.ttl:%Y-%m-%d}")
    names = [*view.keys, view.event, view.created, *(name for name, _ in view.features)]
    return rows.select(*dict.fromkeys(names))
