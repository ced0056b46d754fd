"""A Spark session in this process, and a project of Feast over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the ML environment has no pyspark
    from feast import FeatureStore
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session in this process, with a catalogue in memory."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    options = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


def opened(folder: Path, offline: dict[str, str], source: Any, keys: tuple[str, ...], **more: Any) -> FeatureStore:
    """Return Feast's own class over an offline store, with one view applied.

    :param more: further parts of its configuration; without one there is no online store.
    """
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
    from feast.types import Float64

    config = RepoConfig(
        project="bakery",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store=offline,
        entity_key_serialization_version=3,
        **{"online_store": None, **more},
    )
    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys]
    view = FeatureView(
        name="view", entities=entities, schema=[Field(name="value", dtype=Float64)], source=source, ttl=timedelta(0)
    )
    store = FeatureStore(config=config)
    store.apply([*entities, source, view])
    return store
