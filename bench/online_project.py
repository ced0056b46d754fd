"""What the rows about the online store share: made rows, and Feast on both."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from adin.connections import Connection
from adin.features import repo, wire
from adin.features.feast_import import import_feast
from adin.settings import settings

ROWS = 200_000
NAMES = ("f1", "f2", "f3", "n", "s")
TYPES = ("Float64", "Float64", "Float64", "Int64", "String")
DAY = datetime(2013, 7, 1, tzinfo=UTC)
VIEW = repo.View(
    name="bench",
    table="",
    keys=("id",),
    features=tuple(zip(NAMES, TYPES, strict=True)),
    key_types=(("id", "Int64"),),
)


def ask(conn: Connection, *parts: bytes) -> Any:
    """Return the reply to one command."""
    with wire.Session(conn) as session:
        return session.exchange(wire.command(*parts), 1)[0]


def content(conn: Connection) -> tuple[int, int]:
    """Return the number of hashes and a hash of all, whatever their order, without the field that only ours has."""
    mixed = 0
    with wire.Session(conn) as session:
        names = session.exchange(wire.command(b"KEYS", b"*"), 1)[0]
        for start in range(0, len(names), 20_000):
            some = names[start : start + 20_000]
            found = session.exchange(b"".join(wire.command(b"HGETALL", name) for name in some), len(some))
            for name, each in zip(some, found, strict=True):
                pairs = sorted(zip(each[::2], each[1::2], strict=True))
                told = b"".join(field + value for field, value in pairs if field != b"_created:bench")
                mixed ^= mmh3.hash128(name + told)
    return len(names), mixed


def rows(count: int = ROWS, *, day: int = 0, start: int = 0) -> pa.Table:
    """Return one row an entity, of one day."""
    random = np.random.default_rng(day)
    at = DAY + timedelta(days=day)
    times = [pa.array(np.full(count, when.timestamp() * 1e6, "i8"), pa.timestamp("us", "UTC")) for when in (at, at)]
    values: dict[str, Any] = {name: random.normal(size=count) for name in NAMES[:3]}
    values |= {"n": random.integers(0, 10**9, count), "s": pa.array([f"text-{n % 1000}" for n in range(count)])}
    keys = {"id": pa.array(np.arange(start, start + count), pa.int64())}
    return pa.table({**keys, **values, "event_timestamp": times[0], "created_timestamp": times[1]})


#: Engine, and what Feast is told of it: the engine itself and the offline store it reads by.
_ENGINES: dict[str, dict[str, Any]] = {
    "ours": {
        "batch_engine": {"type": "adin.features.feast_online.ArrowEngine"},
        "offline_store": {"type": "dask"},
    },
    "local": {"offline_store": {"type": "dask"}},
    "spark": {
        "batch_engine": {"type": "spark.engine"},
        "offline_store": {
            "type": "spark",
            "spark_conf": {
                "spark.master": "local[2]",
                "spark.driver.memory": settings().spark_driver_memory,
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.host": "127.0.0.1",
                "spark.sql.session.timeZone": "UTC",
                "spark.sql.shuffle.partitions": "4",
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.log.level": "ERROR",
            },
        },
    },
}


class Project:
    """Feast on a Parquet file and a Redis.

    :param engine: ``ours``, or Feast's ``local`` or ``spark``.
    """

    def __init__(self, folder: Path, conn: Connection, engine: str) -> None:
        import_feast()
        from adin.features.store import _redis
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType, types
        from feast.repo_config import RepoConfig

        folder.mkdir()
        self._file = folder / "rows.parquet"
        config = RepoConfig(
            project=settings().project,
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
            online_store={"type": "redis", "connection_string": _redis(conn)},
            entity_key_serialization_version=3,
            **_ENGINES[engine],
        )
        self.feast = FeatureStore(config=config)
        self.put(rows(1))
        times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
        if engine == "spark":
            from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

            source: Any = SparkSource(name="rows", path=str(self._file), file_format="parquet", **times)
        else:
            source = FileSource(name="rows", path=str(self._file), **times)
        entity = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
        schema = [Field(name=name, dtype=getattr(types, kind)) for name, kind in VIEW.features]
        view = FeatureView(name="bench", entities=[entity], ttl=timedelta(0), schema=schema, source=source)
        self.feast.apply([entity, source, view])

    def put(self, table: pa.Table) -> None:
        """Let the file hold rows."""
        pq.write_table(table, self._file)

    def materialize(self, day: int = 0) -> None:
        """Load a day, silently."""
        start, said = DAY + timedelta(days=day), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            self.feast.materialize(start, start + timedelta(hours=23))


def seconds(work: Callable[[], object]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
