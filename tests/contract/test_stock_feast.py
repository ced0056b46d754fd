"""Feast's own command line and pages on the project's definitions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from adin.connections import Connection, connection
from adin.features import feast_online, shards, store
from adin.settings import ROOT
from adin.window import Window
from feature_registry import forget
from redis_server import RedisServer, free_port

pytestmark = pytest.mark.flow(10)
FEAST = [str(Path(sys.executable).with_name("feast")), "-c", str(ROOT / "feature_repo")]


@pytest.fixture
def surroundings(redis_server: RedisServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables that `adin features env` gives, for an empty registry."""
    extra = {"registry": f"sqlite:///{tmp_path / 'feast.db'}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra=extra).uri)
        patch.setenv(
            "ADIN_CONN_SPARK", Connection("spark", "local[1]", extra={"metastore": "thrift://127.0.0.1:1"}).uri
        )
        forget()
        yield {**os.environ, **store.environment()}
    forget()


@pytest.fixture
def feast(surroundings: dict[str, str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        done = subprocess.run([*FEAST, *words], env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_stock_apply_registers_what_adin_would_and_keeps_what_was_loaded(feast: Callable[..., str]) -> None:
    # the tables are not there: only Feast's check of them is left out
    feast("apply", "--skip-source-validation")
    for domain in ("flights", "parking"):
        assert not store.plan(domain).changes
    loaded = Window.parse("2013-01-01", "2013-02-01")
    store.record_interval("origin_2h", loaded)
    feast("apply", "--skip-source-validation")
    assert store.intervals("origin_2h") == [loaded]


def test_several_servers_come_to_feast_by_the_environment(
    surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore

    conn = connection("feast")
    conn = replace(conn, password="4711", extra={**conn.extra, "mode": "servers", "nodes": "redis-b:7,redis-c:8"})
    monkeypatch.setenv("ADIN_CONN_FEAST", conn.uri)
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    for found in (FeatureStore(repo_path=str(ROOT / "feature_repo")), store.feature_store()):
        reached = feast_online._connection(found.config)
        assert reached and (shards.mode(reached), reached.password) == ("servers", "4711")
        assert shards.addresses(reached) == shards.addresses(conn)


def test_feasts_pages_show_the_definitions(surroundings: dict[str, str]) -> None:
    store.apply("flights")
    port = free_port()
    pages = subprocess.Popen([*FEAST, "ui", "--host", "127.0.0.1", "--port", str(port)], env=surroundings)
    try:
        deadline = time.monotonic() + 90
        while True:
            assert pages.poll() is None and time.monotonic() < deadline
            try:
                page = httpx.get(f"http://127.0.0.1:{port}/", timeout=10)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert page.status_code == 200 and "<div id=" in page.text
        views = httpx.get(f"http://127.0.0.1:{port}/api/v1/feature_views?project=adin", timeout=60)
        assert "origin_2h" in views.text
    finally:
        pages.terminate()
        pages.wait()
