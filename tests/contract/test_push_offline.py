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
from adin.errors import DataError, ServiceError
from adin.features import pushed, repo
from adin.features.push import state as state_module
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models.access import Access
from push_service import Caller, served_with
from push_world import AT, access, empty_store, own_redis, row, secret, stored, surroundings
from redis_server import RedisServer

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


def test_rows_that_can_never_be_landed_are_put_aside_until_a_service_starts(
    caller: Caller, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    for origin in ("JFK", "LGA", "EWR"):
        caller.push([row(origin)])
    taken: list[str] = []

    def take(view: str, contents: list[bytes]) -> None:
        origins = [pa.ipc.open_stream(content).read_all()["origin"][0].as_py() for content in contents]
        if "LGA" in origins:
            raise DataError("Rows lack a column.")
        taken.extend(origins)

    assert (state.land(take), taken) == (3, ["JFK", "EWR"])
    assert "accepted rows of origin_2h cannot be landed, and are put aside: Rows lack a column." in caplog.text
    assert state.land(take) == 0
    state.land_all_again()  # as the service does when it starts
    assert [each["origin"] for each in landed(state)] == ["LGA"]


def test_rows_of_an_earlier_definition_are_a_data_error(surroundings: Connection) -> None:
    domain = repo.domain("flights")
    with pytest.raises(DataError, match="Rows of origin_2h lack event_timestamp"):
        pushed.land(domain, domain.view("origin_2h"), pa.table({"origin": ["JFK"], "created_timestamp": [AT]}))


def test_a_backlog_is_landed_in_parts_of_bounded_size(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_LANDED_BYTES", 1000)
    for _ in range(20):
        state.keep("origin_2h", b"x" * 400)
    sizes: list[int] = []
    while state.land(lambda _, contents: sizes.append(len(contents))):
        pass
    assert sum(sizes) == 20 and max(sizes) == 3


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
