"""Our writer for users of Feast itself, in ``feature_store.yaml``.

``batch_engine: {type: adin.features.feast_online.ArrowEngine}`` makes ``feast materialize`` and
``FeatureStore.materialize`` write columns of Arrow, without a protobuf message a value between; rows that come from
Spark are written by its executors. ``online_store: {type: adin.features.feast_online.RedisOnlineStore, ...}`` gives
rows that Feast hands over one by one (push, ``write_to_online_store``) the same rules: a correction arrives, an older
row does not. What they do not know, such as lists, transformed views or Sentinel, goes Feast's own way.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.dag.context import ColumnInfo
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.utils import create_offline_store_retrieval_job
from feast.infra.online_stores import redis as stock
from feast.repo_config import FeastConfigBaseModel

from adin.connections import Connection
from adin.errors import ConfigError
from adin.features import codec, repo
from adin.features.lease import alone
from adin.features.writer import write

#: Options of Feast's connection string that our writer knows; with another one, Feast's own writes.
_OPTIONS = {"password", "username", "ssl", "ssl_ca_certs", "skip_full_coverage_check"}


class RedisOnlineStoreConfig(stock.RedisOnlineStoreConfig):
    """Options of Feast's Redis store.

    :ivar redis_type: one of Feast's, or ``servers``: the connection string names several independent ones.
    """

    redis_type: stock.RedisType | Literal["servers"] = stock.RedisType.redis
    type: Literal["adin.features.feast_online.RedisOnlineStore"] = "adin.features.feast_online.RedisOnlineStore"


class RedisOnlineStore(stock.RedisOnlineStore):
    """Feast's Redis store with another ``online_write_batch``.

    Of several independent servers it writes and deletes on the right ones; all else Feast would do on the first.
    """

    _registry: Any = None

    def online_write_batch(
        self,
        config: Any,
        table: FeatureView,
        data: list[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows; parameters are those of Feast."""
        conn = _connection(config)
        view = _view(table, config) if data else None
        if conn is None or view is None:
            super().online_write_batch(config, table, data, progress)
            return
        given = set(data[0][1])
        view = replace(view, features=tuple(each for each in view.features if each[0] in given), deleted="")
        if view.online_ttl and not config.online_store.key_ttl_seconds:
            view = _with_ttl(view, self._registry_of(config), config)
        write(view, _table(view, data), conn=conn, project=config.project)
        if progress:
            progress(len(data))

    def _registry_of(self, config: Any) -> Any:
        # Feast hands its store no registry; one is kept, so that its own cache serves the next rows
        if self._registry is None:
            self._registry = FeatureStore(repo_path=config.repo_path, config=config).registry
        return self._registry

    async def online_write_batch_async(
        self, config: Any, table: FeatureView, data: Any, progress: Callable[[int], Any] | None
    ) -> None:
        """Do the same without blocking the caller's loop."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def delete_table(self, config: Any, table: FeatureView) -> None:
        """Delete a view's values, on each of several servers."""
        for each in self._of_each_server(config.online_store):
            stock.RedisOnlineStore.delete_table(each, config, table)

    def delete_entity_values(self, config: Any, join_keys: list[str]) -> None:
        """Delete the entities of some keys, on each of several servers."""
        for each in self._of_each_server(config.online_store):
            stock.RedisOnlineStore.delete_entity_values(each, config, join_keys)

    def _of_each_server(self, options: Any) -> list[stock.RedisOnlineStore]:
        if options.redis_type != "servers":
            return [self]
        servers, more = self._parse_connection_string(options.connection_string)
        stores = [stock.RedisOnlineStore() for _ in servers]
        for each, server in zip(stores, servers, strict=True):
            each._client = stock.Redis(**server, **more)
        return stores

    def _get_client(self, online_store_config: Any) -> Any:
        _refuse_servers(online_store_config)
        return super()._get_client(online_store_config)

    async def _get_client_async(self, online_store_config: Any) -> Any:
        _refuse_servers(online_store_config)
        return await super()._get_client_async(online_store_config)

    def _get_glide_client(self, online_store_config: Any) -> Any:
        _refuse_servers(online_store_config)
        return super()._get_glide_client(online_store_config)


def _refuse_servers(options: Any) -> None:
    if options.redis_type == "servers":
        raise ConfigError(
            "Feast itself knows one Redis or a cluster, not the several servers of the connection feast.",
            "Read with adin.features.online.OnlineReader; load with `adin features materialize`.",
        )


class ArrowEngineConfig(FeastConfigBaseModel):
    """No options."""

    type: Literal["adin.features.feast_online.ArrowEngine"] = "adin.features.feast_online.ArrowEngine"


class ArrowEngine(LocalComputeEngine):
    """Feast's local engine, which reads a plain view in columns and writes it so."""

    def _materialize_one(self, registry: Any, task: MaterializationTask, **kwargs: Any) -> LocalMaterializationJob:
        conn, view = _connection(self.repo_config), _plain_view(task.feature_view, self.repo_config)
        if conn is None or view is None:
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            with alone(view.name, uuid.uuid4().hex, conn=conn, project=task.project) as held:
                self._load(registry, task, _with_ttl(view, registry, self.repo_config), conn, held)
        except Exception as error:  # Feast takes it from the job and raises it
            return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)

    def _load(
        self, registry: Any, task: MaterializationTask, view: repo.View, conn: Connection, held: Callable[[], None]
    ) -> None:
        # Spark's own choice is the Python found first on the path, which may lack Adin
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        marks = [view.deleted] if view.deleted else []
        created = None if view.created == view.event else view.created
        job = create_offline_store_retrieval_job(
            data_source=task.feature_view.batch_source,
            column_info=ColumnInfo(list(view.keys), [*dict(view.features), *marks], view.event, created),
            context=self.get_execution_context(registry, task),
            start_time=task.start_time,
            end_time=task.end_time,
        )
        if hasattr(job, "to_spark_df"):
            from adin.features import spark_online

            held()
            spark_online.write(job.to_spark_df(), view, conn, task.project)
            held()  # else the window is not recorded as loaded
            return
        rows = job.to_arrow()
        bar = task.tqdm_builder(rows.num_rows) if task.tqdm_builder else None

        def go_on(done: int) -> None:
            held()
            if bar:
                bar.update(done)

        held()
        write(view, rows, conn=conn, project=task.project, on_batch=go_on)
        if bar:
            bar.close()


def _plain_view(found: Any, config: Any) -> repo.View | None:
    """Return a view whose rows are its source's; None where Feast has to do more than copy them."""
    source = getattr(found, "batch_source", None)
    if source is None or source.field_mapping or found.offline or not found.online:
        return None
    if any(getattr(found, more, None) for more in ("feature_transformation", "aggregations", "filter")):
        return None
    return None if getattr(found, "enable_validation", False) else _view(found, config)


def _view(found: Any, config: Any) -> repo.View | None:
    """Return a view of Feast as ours; None where it keeps what we cannot."""
    keys = tuple((column.name, str(column.dtype)) for column in found.entity_columns)
    features = tuple((feature.name, str(feature.dtype)) for feature in found.features)
    versioned = config.registry.enable_online_feature_view_versioning
    unknown = [kind for _, kind in (*keys, *features) if kind not in codec.KINDS]
    if versioned or unknown or not keys or "__dummy_id" in dict(keys):
        return None
    source = found.batch_source
    event = source.timestamp_field if source is not None else "event_timestamp"
    return repo.View(
        name=found.name,
        table="",
        keys=tuple(dict(keys)),
        features=features,
        event=event,
        created=(source.created_timestamp_column if source is not None else None) or event,
        key_types=keys,
        deleted=found.tags.get("deleted", ""),
        online_ttl=_ttl(found, config),
    )


def _ttl(found: Any, config: Any) -> timedelta:
    seconds = config.online_store.key_ttl_seconds
    return timedelta(seconds=seconds) if seconds else repo.online_ttl(found)


def _with_ttl(view: repo.View, registry: Any, config: Any) -> repo.View:
    """Return the view with the time that all views of its entity, also those written Feast's own way, agree on."""
    times = [view.online_ttl]
    for found in registry.list_all_feature_views(config.project, allow_cache=True, skip_udf=True):
        if {column.name for column in found.entity_columns} == set(view.keys):
            times.append(_ttl(found, config))
    return repo.with_ttl(view, times)


def _connection(config: Any) -> Connection | None:
    """Return the online store as a connection; None where our writer cannot reach it."""
    store = config.online_store
    if not isinstance(store, stock.RedisOnlineStoreConfig) or store.redis_type == stock.RedisType.redis_sentinel:
        return None
    nodes, options = stock.RedisOnlineStore._parse_connection_string(store.connection_string)
    if options.pop("db", 0) or set(options) - _OPTIONS:
        return None
    first, *others = nodes
    mode = {"redis_cluster": "cluster", "servers": "servers"}.get(store.redis_type, "single")
    listed = ",".join(f"{node['host']}:{node['port']}" for node in others)
    extra = {"mode": mode, "nodes": listed, "tls": options.get("ssl"), "ca_file": options.get("ssl_ca_certs")}
    return Connection(
        name="feast",
        host=first["host"],
        port=int(first.get("port", 6379)),
        login=str(options.get("username") or ""),
        password=str(options.get("password") or ""),
        extra={name: value for name, value in extra.items() if value},
    )


def _table(view: repo.View, data: Sequence[tuple[Any, dict[str, Any], datetime, datetime | None]]) -> pa.Table:
    """Return rows of protobuf messages as columns."""
    names = [(dict(zip(key.join_keys, key.entity_values, strict=True)), values) for key, values, _, _ in data]
    columns = {name: _column([keys[name] for keys, _ in names], kind) for name, kind in view.key_types}
    columns |= {name: _column([values.get(name) for _, values in names], kind) for name, kind in view.features}
    times = pa.timestamp("us", "UTC")
    columns[view.event] = pa.array([_utc(event) for _, _, event, _ in data], times)
    if view.created != view.event:
        columns[view.created] = pa.array([_utc(created) if created else None for *_, created in data], times)
    return pa.table(columns)


def _column(messages: list[Any], type_name: str) -> pa.Array:
    kinds = [message.WhichOneof("val") if message is not None else None for message in messages]
    values = [getattr(message, kind) if kind else None for message, kind in zip(messages, kinds, strict=True)]
    if type_name == "UnixTimestamp":
        values = [None if value == codec.NO_TIME else value for value in values]
    return pa.array(values, codec.KINDS[type_name].arrow)


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
