"""A Spark session in this process, and a project of Feast over it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from spark_session import spark_session

if TYPE_CHECKING:  # the ML environment has no pyspark
    from feast import FeatureStore
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with spark_session(tmp_path_factory.mktemp("warehouse")) as session:
        yield session


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
