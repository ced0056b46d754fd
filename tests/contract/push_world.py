"""What the tests of the push API share: the service with a real Redis and PostgreSQL, somebody who pushes, and rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.features import online, repo, store, wire
from adin.models import registry
from adin.models.access import Access
from adin.settings import settings
from push_service import Caller, database_url, served, token
from redis_server import RedisServer
from servers import Servers

AT = datetime(2013, 9, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def surroundings(servers: Servers, redis_server: RedisServer, tmp_path_factory: Any) -> Iterator[Connection]:
    """All connections the service needs, in the environment; the connection ``push`` without an address."""
    feast = replace(
        redis_server.connection, extra={"registry": f"sqlite:///{tmp_path_factory.mktemp('registry')}/feast.db"}
    )
    push = Connection("push", "127.0.0.1", extra={"database": database_url(servers.database)})
    with pytest.MonkeyPatch.context() as patch:
        for conn in (feast, push, servers.s3, replace(servers.database, name="amversion")):
            patch.setenv(f"ADIN_CONN_{conn.name.upper()}", conn.uri)
        # rows of a test that is over would come back into the store of the next
        patch.setenv("ADIN_PUSH_RECHECK_SECONDS", "3600")
        _forget()
        store.apply("flights")
        yield push
    redis_server.ask("FLUSHALL")
    _forget()


@pytest.fixture(scope="module")
def access(surroundings: Connection) -> Access:
    return Access(registry().store)


@pytest.fixture(scope="module")
def url(surroundings: Connection, access: Access) -> Iterator[str]:
    with served(surroundings) as found:
        yield found


@pytest.fixture(scope="module")
def secret(access: Access) -> str:
    return token(access, "alice", "origin_2h", "carrier_origin_24h", "tail_last")


@pytest.fixture
def alice(url: str, secret: str) -> Caller:
    return Caller(url, secret)


@pytest.fixture(autouse=True)
def empty_store(surroundings: Connection) -> None:
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)


def _forget() -> None:
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set settings for one test."""

    def limit(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"ADIN_{name.upper()}", str(value))
        settings.cache_clear()

    yield limit
    monkeypatch.undo()
    settings.cache_clear()


def row(origin: str = "JFK", *, at: datetime = AT, **values: Any) -> dict[str, Any]:
    return {"origin": origin, "event_timestamp": at.isoformat(), **good(), **values}


def good() -> dict[str, Any]:
    return {"mean_delay": 12.5, "late_share": 0.25, "departures": 7}


def stored(origin: str = "JFK") -> dict[str, Any]:
    """What serving reads of an airport."""
    view = repo.domain("flights").view("origin_2h")
    service = repo.Service("one", (view,), (), (), ())
    columns, _ = online.OnlineReader(service).read([{"origin": origin}])
    return {name.partition("__")[2]: values[0] for name, values in columns.items()}


def reasons(answer: httpx.Response) -> list[tuple[int, str, str]]:
    return [(each["row"], each["field"], each["reason"]) for each in answer.json()["refused"]]


def counts(answer: httpx.Response) -> tuple[int, ...]:
    told = answer.json()
    return tuple(told[name] for name in ("rows", "written", "unchanged", "waiting"))


@pytest.fixture
def own_redis(surroundings: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    monkeypatch.setenv("ADIN_CONN_FEAST", server.connection.uri)
    yield server
    server.kill()


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()
