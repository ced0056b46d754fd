"""The push API while Redis or a database is down, slow or cut off."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import socketserver
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.features import online, repo
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models import registry
from adin.models.access import Access
from push_service import Caller, served, served_with
from push_world import (
    AT,
    access,
    counts,
    empty_store,
    limited,
    own_redis,
    reasons,
    row,
    secret,
    stored,
    surroundings,
    url,
)
from redis_server import RedisServer
from servers import Servers

__all__ = ["access", "empty_store", "limited", "own_redis", "secret", "surroundings", "url"]

pytestmark = pytest.mark.flow(11, 12)


class Cut:
    """Stands before Redis and cuts the connection at the first command of a kind, or holds everything back."""

    def __init__(self, redis: Connection, command: bytes) -> None:
        target = (redis.host, redis.port)
        outer = self
        self.hold = threading.Event()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(target) as behind:
                    threading.Thread(target=outer._back, args=(behind, self.request), daemon=True).start()
                    while content := self.request.recv(1 << 16):
                        if command in content:
                            return
                        if outer.hold.is_set():
                            time.sleep(30)
                        behind.sendall(content)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.connection = replace(redis, port=self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def _back(behind: socket.socket, front: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := behind.recv(1 << 16):
                front.sendall(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_while_redis_is_down_a_push_is_answered_503_or_kept_and_replayed_if_asked_to(
    own_redis: RedisServer, surroundings: Connection, secret: str
) -> None:
    with served(surroundings) as address:
        caller, state = Caller(address, secret), State(surroundings)
        assert caller.push([row("JFK", departures=1)]).status_code == 200
        own_redis.kill()
        assert httpx.get(f"{address}/health/ready").status_code == 503
        refused = caller.push([row("JFK", at=AT + timedelta(hours=1))], idempotency_key="down")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert state.audit(1)[0]["status"] == 503
        later = AT + timedelta(hours=2)
        kept = caller.push([row("JFK", at=later, departures=9), row("LGA", late_share=3)], prefer="respond-async")
        assert (kept.status_code, counts(kept)) == (202, (2, 0, 0, 1))
        assert [field for _, field, _ in reasons(kept)] == ["late_share"]
        letter = kept.json()["dead_letter"]
        waiting = {each.id: each for each in state.dead_letters()}
        assert (waiting[letter].rows, waiting[letter].who) == (1, "alice")
        own_redis.start()
        # the key of the request that failed is free
        assert caller.push([row("JFK", at=AT + timedelta(hours=1))], idempotency_key="down").status_code == 200
        assert Pusher(state).replay(letter, "root") == "1 of 1 written"
        assert stored()["departures"] == 9
        assert letter not in {each.id for each in state.dead_letters()}


def test_rows_of_which_some_may_be_written_are_kept_until_they_all_are(
    own_redis: RedisServer, surroundings: Connection, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Cut(own_redis.connection, b"HSET")
    monkeypatch.setenv("ADIN_CONN_FEAST", proxy.connection.uri)
    with served(surroundings) as address:
        answer = Caller(address, secret).push([row("JFK"), row("LGA", departures=8)], idempotency_key="half")
        assert (answer.status_code, counts(answer)) == (202, (2, 0, 0, 2))
        again = Caller(address, secret).push([row("JFK"), row("LGA", departures=8)], idempotency_key="half")
        assert again.json() == answer.json()
    proxy.close()
    monkeypatch.setenv("ADIN_CONN_FEAST", own_redis.connection.uri)
    state = State(surroundings)
    newer = AT + timedelta(hours=1)
    online.write(repo.domain("flights").view("origin_2h"), _table([row("JFK", at=newer, departures=99)]))
    assert Pusher(state).replay(answer.json()["dead_letter"], "root") == "1 of 2 written"
    assert (stored("JFK")["departures"], stored("LGA")["departures"]) == (99, 8)
    done = next(each for each in state.dead_letters(settled=True) if each.id == answer.json()["dead_letter"])
    assert done.outcome == "1 of 2 written"


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist(rows)
    times = table["event_timestamp"].cast(pa.timestamp("us", "UTC"))
    place = table.schema.get_field_index("event_timestamp")
    return table.set_column(place, "event_timestamp", times).append_column("created_timestamp", times)


def test_while_redis_hangs_no_more_requests_pile_up_than_may_wait(
    own_redis: RedisServer, surroundings: Connection, secret: str, limited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(push_parallel=1, push_waiting=1, push_redis_seconds=2)
    proxy = Cut(own_redis.connection, b"never")
    monkeypatch.setenv("ADIN_CONN_FEAST", proxy.connection.uri)
    with served(surroundings) as address:
        assert Caller(address, secret).push([row()]).status_code == 200
        proxy.hold.set()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: Caller(address, secret).push([row("LGA")]), range(8)))
        assert {answer.status_code for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert sum("being worked on" in answer.json()["error"] for answer in answers) >= 1
        # health answers all the while, and what is inside comes out again
        assert httpx.get(f"{address}/health/live").status_code == 200
    proxy.close()


def test_while_the_database_of_tokens_is_down_nobody_passes(
    surroundings: Connection, servers: Servers, secret: str, limited: Any
) -> None:
    limited(registry_patience=0.5)
    down = replace(servers.database, name="amversion", port=1)
    with served_with(Pusher(State(surroundings)), Access(registry(down).store)) as address:
        answer = Caller(address, secret).push([row()])
    assert answer.status_code == 503 and "retry-after" in answer.headers
    assert np.isnan(stored()["departures"])
