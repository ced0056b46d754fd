"""An online store of a test's own: the connection that leads to it, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adin.connections import Connection
from adin.features import online, repo
from redis_server import RedisServer
from shop_rows import forget

FEATURES = Path(__file__).parents[1] / "shop" / "features"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'feast.db'}"


@contextmanager
def using(conn: Connection, registry: str) -> Iterator[None]:
    """Let the online store be what a connection says."""
    conn = replace(conn, extra={**conn.extra, "registry": registry})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", conn.uri)
        patch.setenv("ADIN_FEATURE_REPO", str(FEATURES))
        forget()
        yield
    forget()


@pytest.fixture
def one(redis_server: RedisServer, registry: str) -> Iterator[RedisServer]:
    with using(redis_server.connection, registry):
        empty([redis_server])
        yield redis_server


def empty(found: list[RedisServer]) -> list[RedisServer]:
    for server in found:
        server.ask("FLUSHALL")
    return found


def cents(asked: list[dict[str, Any]]) -> list[Any]:
    columns, _ = online.OnlineReader(repo.service("shop", "counter")).read(asked)
    return [None if np.isnan(each) else int(each) for each in columns["takings__cents"].astype("float64")]
