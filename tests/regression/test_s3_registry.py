"""Feast's registry in S3, by its own store and by ours: failed reads, writers at once, loads that run or were killed.

In the ML environment, which has boto3 for Feast's own store.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from adin.errors import AdinError
from adin.features.feast_import import import_feast
from adin.settings import settings
from fault_proxy import FaultProxy
from judging import Judge
from servers import Servers, s3_client

import_feast()

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.infra.online_stores.sqlite import SqliteOnlineStore, convert_timestamp  # noqa: E402
from feast.types import Float64  # noqa: E402

pytestmark = [pytest.mark.ml, pytest.mark.flow(4, 5, 9), pytest.mark.filterwarnings("ignore")]
START, DAY = datetime(2021, 1, 1, tzinfo=UTC), timedelta(days=1)
OURS = {
    "registry_store_type": "adin.features.registry_file.BucketRegistryStore",
    "serve_features_while_materializing": True,  # as in feature_repo/feature_store.yaml
}
SLOW_DOWN = {"status": 503, "body": b"<Error><Code>SlowDown</Code></Error>", "type": "application/xml"}


class Project:
    """A Feast project whose registry is an object in S3 and whose rows lie in a file."""

    def __init__(self, folder: Path, servers: Servers, more: dict[str, Any]) -> None:
        self.key, self.client, self.bucket = f"feast/{uuid.uuid4().hex}.db", s3_client(servers.s3), servers.bucket
        self._file, self._folder = folder / "rows.parquet", folder
        self._registry = {"registry_type": "file", "path": f"s3://{servers.bucket}/{self.key}", **more}
        times = pd.to_datetime([START + DAY / 2] * 2, utc=True)
        pd.DataFrame({"a": ["x", "y"], "value": [1.0, 2.0], "event_timestamp": times}).to_parquet(self._file)
        self.open().apply(self.objects("first", "second"))

    def open(self) -> FeatureStore:
        """Return Feast's own class, as another process would have it."""
        return FeatureStore(config=RepoConfig(**self.config))

    @property
    def config(self) -> dict[str, Any]:
        """Return what Feast is told."""
        return {
            "project": "bakery",
            "provider": "local",
            "registry": {**self._registry, "cache_ttl_seconds": 0},
            "online_store": {"type": "sqlite", "path": str(self._folder / "online.db")},
            "offline_store": {"type": "dask"},
            "entity_key_serialization_version": 3,
        }

    def objects(self, *names: str) -> list[Any]:
        """Return views of these names and what they are made of."""
        key = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
        source = FileSource(name="rows", path=str(self._file), timestamp_field="event_timestamp")
        schema: Any = {"entities": [key], "schema": [Field(name="value", dtype=Float64)], "ttl": timedelta(0)}
        return [key, source, *(FeatureView(name=name, source=source, **schema) for name in names)]

    def views(self) -> dict[str, int]:
        """Return how many intervals each view in the registry has."""
        found = self.open().registry.list_feature_views("bakery")
        return {view.name: len(view.materialization_intervals) for view in found}


def load(store: FeatureStore, view: str, day: int = 0) -> None:
    store.materialize(START + day * DAY, START + (day + 1) * DAY, feature_views=[view])


def served(store: FeatureStore) -> Any:
    """Return what is online, or what was wrong with the question."""
    try:
        return store.get_online_features(["first:value"], [{"a": "x"}]).to_dict()["value"][0]
    except ValueError as error:
        return str(error).partition("is in state")[2].strip()[:15]


@pytest.fixture
def proxy(servers: Servers) -> Iterator[FaultProxy]:
    with FaultProxy(servers.s3) as made:
        yield made


@pytest.fixture
def project(
    whose: str, servers: Servers, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """A project with two views, whose registry is reached by the proxy."""
    s3 = proxy.conn
    monkeypatch.setenv("ADIN_CONN_S3", replace(s3, name="s3").uri)
    monkeypatch.setenv("ADIN_REGISTRY_PATIENCE", "0.5")
    stock = {"FEAST_S3_ENDPOINT_URL": f"http://{s3.host}:{s3.port}", "AWS_MAX_ATTEMPTS": "2"}
    stock |= {"AWS_ACCESS_KEY_ID": s3.login, "AWS_SECRET_ACCESS_KEY": s3.password, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in stock.items():
        monkeypatch.setenv(name, value)
    # IPython, imported by the tests of the notebook, takes this name for another format
    sqlite3.register_converter("timestamp", convert_timestamp)
    settings.cache_clear()
    yield Project(tmp_path, servers, OURS if whose == "ours" else {})
    settings.cache_clear()


@pytest.fixture
def halfway(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Return a function that lets something happen once, while the next load writes its rows."""

    def let(happen: Callable[[], Any]) -> None:
        write, once = SqliteOnlineStore.online_write_batch, [happen]

        def written(*args: Any, **kwargs: Any) -> Any:
            if once:
                once.pop()()
            return write(*args, **kwargs)

        monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", written)

    return let


def opened(project: Project) -> str:
    """Open the registry and tell what came of it."""
    try:
        _ = project.open().registry
    except AdinError as error:
        return type(error).__name__
    return "opened"


def test_a_read_that_fails_leaves_the_registry_as_it_was(project: Project, proxy: FaultProxy, judge: Judge) -> None:
    proxy.fault("answer", f"^(GET|HEAD) .*{project.key}", **SLOW_DOWN)
    answer = opened(project)
    proxy.clear()
    found = (answer, project.views())
    judge(found, right=("UnreachableError", {"first": 0, "second": 0}), stock=("opened", {}))


def test_an_object_cut_to_nothing_is_an_error_and_no_empty_registry(project: Project, judge: Judge) -> None:
    import io

    project.client.put_object(project.bucket, project.key, io.BytesIO(b""), 0)
    judge(opened(project), right="DataError", stock="opened")


def test_a_view_applied_while_another_is_loaded_is_kept(
    project: Project, judge: Judge, halfway: Callable[..., None]
) -> None:
    halfway(lambda: project.open().apply(project.objects("third")))
    load(project.open(), "first")
    judge(project.views(), right={"first": 1, "second": 0, "third": 0}, stock={"first": 1, "second": 0})


def test_of_two_loads_at_once_both_are_recorded(project: Project, judge: Judge, halfway: Callable[..., None]) -> None:
    halfway(lambda: load(project.open(), "second"))
    load(project.open(), "first")
    judge(project.views(), right={"first": 1, "second": 1}, stock={"first": 1, "second": 0})


def test_a_change_between_two_steps_of_an_apply_is_kept(project: Project, judge: Judge) -> None:
    ours, theirs = (project.open().registry for _ in range(2))
    ours.apply_entity(Entity(name="ours"), "bakery", commit=False)
    theirs.apply_entity(Entity(name="theirs"), "bakery")
    ours.apply_entity(Entity(name="last"), "bakery", commit=False)
    ours.commit()
    found = {each.name for each in project.open().registry.list_entities("bakery")} - {"a", "__dummy"}
    judge(found, right={"ours", "theirs", "last"}, stock={"ours", "last"})


def test_days_loaded_one_after_another_are_one_interval(project: Project, judge: Judge) -> None:
    for day in range(3):
        load(project.open(), "first", day)
    judge(project.views()["first"], right=1, stock=3)


def test_a_view_is_served_while_it_is_loaded_anew(project: Project, judge: Judge, halfway: Callable[..., None]) -> None:
    load(project.open(), "first")
    found = []
    halfway(lambda: found.append(served(project.open())))
    load(project.open(), "first")
    judge(found, right=[1.0], stock=["'MATERIALIZING'"])


def killed(config: dict[str, Any]) -> None:
    """Load a day and be killed in the midst of writing it."""
    SqliteOnlineStore.online_write_batch = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    load(FeatureStore(config=RepoConfig(**config)), "first")


def test_a_view_whose_load_was_killed_is_served(project: Project, judge: Judge) -> None:
    load(project.open(), "first")
    other = multiprocessing.get_context("spawn").Process(target=killed, args=(project.config,))
    other.start()
    other.join(60)
    assert other.exitcode == -signal.SIGKILL
    judge(served(project.open()), right=1.0, stock="'MATERIALIZING'")
