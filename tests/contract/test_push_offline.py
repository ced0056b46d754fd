"""Pushed rows that a view's table is to hold: kept with the push, handed over once, lost by no failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.errors import ServiceError
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models.access import Access
from push_service import Caller, served_with
from redis_server import RedisServer
from test_push import AT, access, empty_store, own_redis, row, secret, stored, surroundings

pytestmark = pytest.mark.flow(3, 11)

__all__ = ["access", "empty_store", "own_redis", "secret", "surroundings"]


@pytest.fixture
def state(surroundings: Connection) -> State:
    found = State(surroundings)
    while found.land(lambda *_: None):
        pass
    return found


@pytest.fixture
def caller(state: State, access: Access, secret: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    """Somebody who pushes to a service that lands nothing by itself."""
    monkeypatch.setattr(Pusher, "land", lambda _: 0)
    pusher = Pusher(state)
    pusher.targets["origin_2h"] = replace(pusher.targets["origin_2h"], offline=True)
    with served_with(pusher, access) as address:
        yield Caller(address, secret)


def landed(state: State) -> list[dict[str, Any]]:
    """Hand over what waits and return its rows."""
    found: list[dict[str, Any]] = []

    def take(view: str, contents: list[bytes]) -> None:
        assert view == "origin_2h"
        for content in contents:
            found.extend(pa.ipc.open_stream(content).read_all().to_pylist())

    while state.land(take):
        pass
    return found


def test_rows_that_are_accepted_are_kept_once_and_refused_ones_are_not(caller: Caller, state: State) -> None:
    sent = [row("JFK"), row("SFO"), row("LGA", departures=8)]
    for _ in range(2):
        assert caller.push(sent, idempotency_key="one").json()["written"] == 2
    late = caller.push([row("JFK", at=AT - timedelta(hours=1))])
    assert late.status_code == 422, "older than what is stored"
    kept = landed(state)
    assert [(each["origin"], each["departures"], each["event_timestamp"]) for each in kept] == [
        ("JFK", 7, AT),
        ("LGA", 8, AT),
    ]
    assert all(each["created_timestamp"] > AT for each in kept), "when they became known"
    assert landed(state) == []


def test_other_views_are_not_kept(caller: Caller, state: State) -> None:
    answer = caller.push([{"tailnum": "N1", "event_timestamp": AT.isoformat()}], view="tail_last")
    assert answer.status_code in (200, 422)
    assert landed(state) == []


def test_rows_that_could_not_be_landed_wait(caller: Caller, state: State) -> None:
    caller.push([row("JFK")])

    def fails(view: str, contents: list[bytes]) -> None:
        raise ServiceError("HDFS does not answer.")

    with pytest.raises(ServiceError):
        state.land(fails)
    assert [each["origin"] for each in landed(state)] == ["JFK"]


def test_while_redis_is_down_only_rows_that_are_accepted_are_kept(
    own_redis: RedisServer, caller: Caller, state: State
) -> None:
    own_redis.kill()
    assert caller.push([row("JFK")]).status_code == 503
    assert landed(state) == []
    assert caller.push([row("LGA")], prefer="respond-async").status_code == 202
    assert [each["origin"] for each in landed(state)] == ["LGA"]


def test_nothing_is_written_online_that_could_not_be_kept(
    caller: Caller, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise ServiceError("The database failed.")

    monkeypatch.setattr(State, "keep", away)
    assert caller.push([row("JFK")]).status_code == 503
    monkeypatch.undo()
    assert np.isnan(stored("JFK")["departures"])
