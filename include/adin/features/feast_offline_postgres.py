"""The point-in-time join of the PostgreSQL edition for users of Feast itself.

``offline_store: {type: adin.features.feast_offline_postgres.PostgresPointInTimeOfflineStore}``, with the options of
Feast's PostgreSQL store. It is that store but for three things: entity rows are joined as the project's own training
sets are, a source of Spark names a table here too, and values cross as Arrow. A frame of entity rows is a temporary
table of the session that asks, and goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import adbc_driver_manager as adbc
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres as stock
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.utils.postgres import connection_utils
from psycopg.conninfo import make_conninfo

from adin.errors import ConfigError, DataError
from adin.features import codec, repo
from adin.features.feast_request import Request, Wanted
from adin.features.offline_postgres import check_tables, known, quoted, session

#: The session's temporary table of entity rows.
_ENTITY_ROWS = "adin_entity_rows"


class PostgresPointInTimeOfflineStoreConfig(stock.PostgreSQLOfflineStoreConfig):
    """Options of Feast's PostgreSQL store; ``entity_select_mode`` changes nothing."""

    type: Literal["adin.features.feast_offline_postgres.PostgresPointInTimeOfflineStore"] = (
        "adin.features.feast_offline_postgres.PostgresPointInTimeOfflineStore"
    )


class PostgresRetrievalJob(stock.PostgreSQLRetrievalJob):
    """A query that has not been run yet.

    :param rows: entity rows for it, as the temporary table it reads. Default none.
    """

    def __init__(self, query: str, rows: pa.Table | None = None, **kwargs: Any) -> None:
        super().__init__(query, **kwargs)
        self._rows = rows

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with session(where=_address(self.config.offline_store)) as cursor:
            if self._rows is not None:
                cursor.adbc_ingest(_ENTITY_ROWS, self._rows, mode="create", temporary=True)
            cursor.execute(self.to_sql())
            return cursor.fetch_arrow_table()


class PostgresPointInTimeOfflineStore(stock.PostgreSQLOfflineStore):
    """Feast's PostgreSQL store with a join that is right."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> PostgresRetrievalJob:
        """Return the features of entity rows; parameters are those of Feast.

        :param entity_df: keys and event timestamp as a pandas frame or an SQL query; times without a zone are UTC.
        :raises ConfigError: no entity rows are given, or a view maps columns or keys to other names.
        :raises DataError: the query is wrong, keys do not fit their type, or a view's table is not there.
        :raises FeastEntityDFMissingColumnsError: the entity rows lack a key.
        :raises ServiceError: PostgreSQL does not answer or refused.
        """
        if not isinstance(entity_df, pd.DataFrame | str):
            raise ConfigError("Entity rows are needed: pass entity_df, a pandas frame or an SQL query.")
        request = Request(config, feature_views, feature_refs, registry, project, full_feature_names)
        with session(where=_address(config.offline_store)) as cursor:
            frame = _empty(cursor, entity_df) if isinstance(entity_df, str) else entity_df
            at = offline_utils.infer_event_timestamp_from_entity_df(dict(frame.dtypes))
            asked = list(frame.columns)
            wanted = request.wanted(asked)
            check_tables(cursor, [_table(each.source) for each in wanted])
            if isinstance(entity_df, str):
                rows, events = None, _events(_subquery(entity_df), asked, at)
                cursor.execute(f"SELECT min({quoted(at)}), max({quoted(at)}) FROM ({events}) events")
                span = cursor.fetchone()
            else:
                rows, events = _rows(entity_df, at, wanted), _events(_ENTITY_ROWS, asked, at)
                span = _span(rows[at])
        query = known(events, [(each.view, each.columns) for each in wanted], at=at)
        return PostgresRetrievalJob(query, rows, **request.job(asked, at, span))

    @staticmethod
    def pull_latest_from_table_or_query(config: Any, data_source: Any, **kwargs: Any) -> PostgresRetrievalJob:
        """Return the newest row of each key; parameters are those of Feast."""
        pull = stock.PostgreSQLOfflineStore.pull_latest_from_table_or_query
        return _plain(config, pull(config=config, data_source=_source(data_source), **kwargs))

    @staticmethod
    def pull_all_from_table_or_query(config: Any, data_source: Any, **kwargs: Any) -> PostgresRetrievalJob:
        """Return all rows of a span of time; parameters are those of Feast."""
        pull = stock.PostgreSQLOfflineStore.pull_all_from_table_or_query
        return _plain(config, pull(config=config, data_source=_source(data_source), **kwargs))


def _address(config: stock.PostgreSQLOfflineStoreConfig) -> str:
    """Return the connection string that Feast's own store would use."""
    options = {"keepalives_idle": config.keepalives_idle, **connection_utils._get_conn_kwargs(config)}
    given = {name: value for name, value in options.items() if value is not None}
    return make_conninfo(connection_utils._get_conninfo(config), **given)


def _table(source: Any) -> str:
    """Return the table of a source.

    :raises ConfigError: it is none of tables.
    """
    table = repo.table(source)
    if not table or table.startswith("("):
        raise ConfigError(f"The source {source.name} names no table.", "This store reads tables of PostgreSQL.")
    return table


def _source(source: Any) -> PostgreSQLSource:
    """Return a source as one of PostgreSQL, for Feast's own queries."""
    return source if isinstance(source, PostgreSQLSource) else PostgreSQLSource(name=source.name, table=_table(source))


def _plain(config: Any, job: stock.PostgreSQLRetrievalJob) -> PostgresRetrievalJob:
    return PostgresRetrievalJob(job.to_sql(), config=config, full_feature_names=False)


def _subquery(query: str) -> str:
    return f"({query.strip().rstrip(';')}\n) given"  # a comment may end the query


def _empty(cursor: Any, query: str) -> pd.DataFrame:
    """Return a frame with the columns of a query and no row."""
    try:
        cursor.execute(f"SELECT * FROM {_subquery(query)} LIMIT 0")
    except adbc.ProgrammingError as error:
        raise DataError(f"The query of entity rows is wrong: {error}.") from None
    return cursor.fetch_arrow_table().to_pandas()


def _events(source: str, columns: Iterable[str], at: str) -> str:
    """Return the query of the entity rows; the session reads times without a zone as UTC."""
    listed = [f"{quoted(name)}::timestamptz AS {quoted(name)}" if name == at else quoted(name) for name in columns]
    return f"SELECT {', '.join(listed)} FROM {source}"


def _rows(frame: pd.DataFrame, at: str, wanted: Iterable[Wanted]) -> pa.Table:
    """Return a frame of entity rows in types that PostgreSQL has; keys are those of the views."""
    times = pd.to_datetime(frame[at], utc=True)
    try:
        rows = pa.Table.from_pandas(frame.assign(**{at: times}), preserve_index=False).replace_schema_metadata()
    except pa.ArrowException as error:
        raise DataError(f"The entity rows hold what no column can: {error}.") from None
    kinds = {key: kind for each in wanted for key, kind in each.view.key_types if kind != "UnixTimestamp"}
    columns = {name: _column(rows[name], name, kinds.get(name)) for name in rows.column_names}
    return pa.table(columns | {at: rows[at].cast(pa.timestamp("us", "UTC"), safe=False)})


def _column(column: pa.ChunkedArray, name: str, kind: str | None) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind:
        return codec.cast(column, kind, name=name)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _span(times: pa.ChunkedArray) -> tuple[datetime | None, datetime | None]:
    found = pc.min_max(times).as_py()
    return found["min"], found["max"]
