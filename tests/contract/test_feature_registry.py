"""Feast's registry in both editions: many writers, faults, earlier states."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from adin.commands.features import app
from adin.connections import Connection, connection
from adin.errors import ConfigError, ConflictError, DataError, NotFoundError, ServiceError
from adin.features import repo, store
from adin.features.snapshot import snapshot
from adin.models.objects import Bucket
from adin.settings import ROOT, settings
from airflow_connections import offer
from feature_registry import HEAVY, ROUNDS, change, day, forget, write_domain
from processes import at_once
from redis_server import RedisServer
from s3_proxy import s3_proxy
from servers import Servers
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(4, 5, 10)
VARIABLES = ("ADIN_PROJECT", "ADIN_CONN_FEAST", "ADIN_CONN_S3")


@contextmanager
def project(servers: Servers, folder: Path, edition: str, s3: Connection | None = None) -> Iterator[dict[str, str]]:
    """A Feast project of its own in a registry of an edition, with the view ``shared``; yields its environment."""
    name, database = f"p{uuid.uuid4().hex[:12]}", servers.database
    where = f"s3://{servers.bucket}/feast/{name}.db"
    if edition == "postgres":
        sign_in = f"{database.login}:{database.password}@{database.host}:{database.port}"
        where = f"postgresql+psycopg://{sign_in}/{database.schema}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_PROJECT", name)
        patch.setenv("ADIN_FEATURE_REPO", str(folder))
        # nothing here is written online
        patch.setenv("ADIN_CONN_FEAST", Connection("feast", "127.0.0.1", 1, extra={"registry": where}).uri)
        patch.setenv("ADIN_CONN_S3", replace(s3 or servers.s3, name="s3").uri)
        patch.setenv("ADIN_CONN_AMVERSION", "")
        forget()
        write_domain(folder, "shared", 1)
        store.apply("shared")
        yield {name: os.environ[name] for name in VARIABLES}
    forget()


@pytest.fixture(params=["postgres", "s3"])
def either(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Path]:
    """A project in each edition; its repository."""
    with project(servers, tmp_path / "repo", request.param):
        yield tmp_path / "repo"


@pytest.fixture
def in_s3(servers: Servers, tmp_path: Path) -> Iterator[Path]:
    """A project in the file edition; its repository."""
    with project(servers, tmp_path / "repo", "s3"):
        yield tmp_path / "repo"


def registered() -> dict[str, list[str]]:
    """The features of each view in the registry, read anew."""
    opened = store.feature_store()
    views = opened.registry.list_feature_views(opened.project)
    return {view.name: sorted(field.name for field in view.features) for view in views}


def object_of() -> tuple[Bucket, str]:
    """Where the registry lies."""
    _, _, bucket, key = str(connection("feast").extra["registry"]).split("/", 3)
    return Bucket(connection("s3"), bucket), key


def test_two_appliers_and_two_materializers_at_once_lose_nothing_in_either_edition_or_by_a_store_that_fails(
    servers: Servers, tmp_path: Path
) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        editions = []
        for edition in ("postgres", "s3"):
            with project(servers, tmp_path / edition, edition, s3) as variables:
                editions.append(variables)
        faults.unavailable, faults.lost = 6, 6
        assert at_once(4, change, editions, str(tmp_path), preload=HEAVY) == [""] * 4
        assert (faults.unavailable, faults.lost) == (0, 0)
    features = [f"f{n}" for n in range(ROUNDS)]
    with pytest.MonkeyPatch.context() as patch:
        for variables in editions:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setenv("ADIN_CONN_S3", replace(servers.s3, name="s3").uri)
            forget()
            assert registered() == {"shared": ["f0"], "own0": features, "own1": features}
            assert store.intervals("shared") == [day(n) for n in range(2 * ROUNDS)]
    forget()


def test_the_stock_feast_configuration_reads_the_registry_of_either_edition(
    either: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore

    monkeypatch.setenv("ADIN_CONN_SPARK", Connection("spark", extra={"metastore": "thrift://127.0.0.1:1"}).uri)
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    stock = FeatureStore(repo_path=str(ROOT / "feature_repo"))
    views = stock.registry.list_feature_views(settings().project)
    assert [view.name for view in views] == ["shared"]
    assert stock.registry.serve_features_while_materializing


def test_the_test_button_of_the_connection_asks_the_registry_where_it_lies(
    either: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adin.airflow.hooks import FeastHook

    offer(monkeypatch, connection("s3"))
    conn = replace(redis_server.connection, extra=connection("feast").extra)
    answer = FeastHook().probe(conn)
    assert answer.startswith("Redis answers (1 server), registry answers")
    gone = str(conn.extra["registry"]).replace("adin-test-", "no-such-")
    with pytest.raises(Exception, match="no-such-"):
        FeastHook().probe(replace(conn, extra={"registry": gone}))


def test_a_store_that_cannot_be_read_is_an_error_and_the_registry_stays_what_it_was(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_REGISTRY_PATIENCE", "0.5")
    with s3_proxy(servers.s3) as (s3, faults), project(servers, tmp_path / "repo", "s3", s3):
        bucket, key = object_of()
        before = bucket.get(key)
        faults.unavailable = 1000
        for step in (
            store.feature_store,
            lambda: store.apply("shared"),
            lambda: store.record_interval("shared", day(1)),
        ):
            with pytest.raises(ServiceError, match="503"):
                step()
        faults.unavailable = 0
        assert bucket.get(key) == before
        assert registered() == {"shared": ["f0"]}


def test_a_broken_or_missing_object_is_no_empty_registry(in_s3: Path) -> None:
    store.record_interval("shared", day(1))
    bucket, key = object_of()
    for content in (b"", b"no protobuf"):
        bucket.put(key, content)
        with pytest.raises(DataError, match="is no registry"):
            store.feature_store()
    bucket.remove(key)
    with pytest.raises(DataError, match="is gone"):
        store.apply("shared")
    for content in (None, b"no protobuf"):
        if content:
            bucket.put(key, content)
        kept = store.bucket_registry()
        kept.restore(kept.states()[0].number)
        assert registered() == {"shared": ["f0"]}


def test_the_last_states_are_kept_and_each_can_be_brought_back(in_s3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIN_FEATURE_REGISTRY_STATES", "3")
    forget()
    for n in range(2, 7):
        write_domain(in_s3, "shared", n)
        forget()
        store.apply("shared")
    kept = store.bucket_registry()
    numbers = [state.number for state in kept.states()]
    assert numbers == list(range(numbers[0], numbers[0] - 4, -1))
    assert [state.current for state in kept.states()] == [True, False, False, False]
    done = CliRunner().invoke(app, ["registry", "restore", str(numbers[2]), "--yes"])
    assert done.exit_code == 0, done.output
    assert registered() == {"shared": ["f0", "f1", "f2", "f3"]}
    assert kept.states()[0].number == numbers[0] + 1
    kept.restore(numbers[0])
    assert registered() == {"shared": ["f0", "f1", "f2", "f3", "f4", "f5"]}
    with pytest.raises(NotFoundError, match="No state 1 "):
        kept.restore(1)


def test_nothing_is_written_where_nothing_changed(in_s3: Path) -> None:
    before = store.bucket_registry().states()
    store.record_interval("shared", day(1))
    once = store.bucket_registry().states()
    store.record_interval("shared", day(1))
    store.apply("shared")
    assert len(once) == len(before) + 1
    assert store.bucket_registry().states()[0].number <= once[0].number + 1


def test_two_who_change_one_view_to_different_things_are_told(in_s3: Path) -> None:
    first, second = store.feature_store(), store.feature_store()
    views = [opened.registry.get_feature_view("shared", opened.project) for opened in (first, second)]
    for opened, view, text in zip((first, second), views, ("one", "two"), strict=True):
        view.description = text
        if text == "two":
            with pytest.raises(ConflictError, match="shared was changed by another"):
                opened.registry.apply_feature_view(view, opened.project)
        else:
            opened.registry.apply_feature_view(view, opened.project)
    found = store.feature_store()
    assert found.registry.get_feature_view("shared", found.project).description == "one"


def test_a_load_recorded_while_a_view_is_changed_is_kept(either: Path) -> None:
    slow = store.feature_store()
    write_domain(either, "shared", 2)
    forget()
    store.record_interval("shared", day(1))
    store.apply("shared")
    view = slow.registry.get_feature_view("shared", slow.project, allow_cache=True)
    slow.registry.apply_materialization(view, slow.project, day(2).start, day(2).end)
    assert registered() == {"shared": ["f0", "f1"]}
    assert store.intervals("shared") == [day(1), day(2)]


@pytest.mark.flow(6, 7, 8)
def test_the_snapshot_of_a_service_is_the_same_in_both_editions_and_changes_only_with_its_definitions(
    servers: Servers, tmp_path: Path
) -> None:
    found = []
    for edition in ("postgres", "s3"):
        folder = tmp_path / edition
        with project(servers, folder, edition):
            once = snapshot(repo.service("shared", "shared_service"))
            store.record_interval("shared", day(1))
            write_domain(folder, "other", 1)
            forget()
            store.apply("other")
            assert snapshot(repo.service("shared", "shared_service")) == once
            write_domain(folder, "shared", 2)
            forget()
            with pytest.raises(DataError, match="registry has other features"):
                snapshot(repo.service("shared", "shared_service"))
            store.apply("shared")
            found.append((once, snapshot(repo.service("shared", "shared_service"))))
    assert found[0] == found[1] and found[0][0] != found[0][1]
    told = json.loads(found[0][1])
    assert [field["name"] for field in told["FeatureView"][0]["features"]] == ["f0", "f1"]
    assert [each["join_key"] for each in told["Entity"]] == ["shared_id"]
    assert "other" not in str(told)


def test_a_store_that_ignores_conditions_is_refused(servers: Servers, tmp_path: Path, empty_bucket: str) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        faults.blind = True
        blind = replace(servers, bucket=empty_bucket)
        with pytest.raises(ConfigError, match="changes would get lost"), project(blind, tmp_path / "repo", "s3", s3):
            pass


@pytest.fixture
def empty_bucket(servers: Servers) -> Iterator[str]:
    """A bucket that nobody has looked at."""
    from servers import s3_client

    client, name = s3_client(servers.s3), f"adin-test-{uuid.uuid4().hex[:12]}"
    client.make_bucket(name)
    yield name
    for entry in list(client.list_objects(name, recursive=True)):
        client.remove_object(name, entry.object_name)
    client.remove_bucket(name)


def test_a_registry_in_a_database_keeps_no_states(servers: Servers, tmp_path: Path) -> None:
    with project(servers, tmp_path / "repo", "postgres"), pytest.raises(ConfigError, match="own backups"):
        store.bucket_registry()
