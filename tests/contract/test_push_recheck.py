"""Pushed rows and loads that go on at the same time: what a load overwrites comes back."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.features import online, repo, shards
from adin.features.push import recent
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from push_service import Caller, Process, served
from push_world import (
    AT,
    access,
    alice,
    counts,
    empty_store,
    good,
    limited,
    row,
    secret,
    stored,
    stream,
    surroundings,
    url,
)
from waiting import until

__all__ = ["access", "alice", "empty_store", "limited", "secret", "surroundings", "url"]

pytestmark = pytest.mark.flow(11, 12)


@contextlib.contextmanager
def a_load_on_its_way() -> Iterator[Callable[[], int]]:
    """Compare an older row with what is stored; yield what writes it then."""
    view, old = repo.domain("flights").view("origin_2h"), AT - timedelta(days=1)
    loaded = {"origin": "JFK", view.event: old, view.created: old, **good(), "departures": 1}
    with shards.Shards() as session:
        compared = online.compare(view, pa.Table.from_pylist([loaded]), session=session)
        yield lambda: online.put(compared, session=session)


def fall_due() -> None:
    """Let all that is to be compared once more be so now."""
    with shards.Shards() as session:
        for entry in waiting():
            recent.add("origin_2h", entry, time.time(), session)


def test_a_pushed_row_that_a_load_on_its_way_overwrites_comes_back_once(surroundings: Connection, secret: str) -> None:
    with served(surroundings) as address, a_load_on_its_way() as load:
        assert counts(Caller(address, secret).push([row("JFK", departures=2)]))[0] == 1
        load()
        assert stored()["departures"] == 1
        fall_due()
        until(lambda: stored()["departures"] == 2)
        until(lambda: not waiting())


def test_rows_fall_due_some_seconds_after_their_push(alice: Caller, limited: Any) -> None:
    limited(push_recheck_seconds=1)
    alice.push([row("JFK")])
    until(lambda: not waiting())


def test_pushed_rows_are_compared_once_more_when_the_service_ends_and_later_by_the_next(
    surroundings: Connection, secret: str
) -> None:
    with a_load_on_its_way() as load:
        with served(surroundings) as address:
            Caller(address, secret).push([row("JFK", departures=2)])
            load()
        assert stored()["departures"] == 2
        load()
        fall_due()
        with served(surroundings):
            until(lambda: stored()["departures"] == 2)


def test_a_correction_with_the_same_times_is_not_undone_by_comparing_once_more(
    surroundings: Connection, alice: Caller
) -> None:
    known = (AT + timedelta(minutes=5)).isoformat()
    for departures in (9, 3):
        alice.push([row("JFK", departures=departures, created_timestamp=known)])
    assert stored()["departures"] == 3
    assert Pusher(State(surroundings)).recheck(everything=True) == {}
    assert stored()["departures"] == 3


def test_pushed_rows_are_compared_once_more_after_the_service_was_killed(surroundings: Connection, secret: str) -> None:
    process = Process(surroundings)
    try:
        with a_load_on_its_way() as load:
            answers = [Caller(process.url, secret).push([row("JFK", departures=n)]) for n in range(2, 42)]
            process.kill()
            load()
    finally:
        process.kill()
    assert [answer.status_code for answer in answers] == [200] * 40 and stored()["departures"] == 1
    assert Pusher(State(surroundings)).recheck(everything=True)["origin_2h"] >= 1
    assert stored()["departures"] == 41


def test_a_row_pushed_under_another_definition_is_not_compared_and_keeps_none_from_it(
    surroundings: Connection, alice: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    odd = stream(pa.table({"origin": ["JFK"], "gone": [1]}))
    with a_load_on_its_way() as load, shards.Shards() as session:
        recent.add("origin_2h", odd, time.time() + 3600, session)
        alice.push([row("JFK", departures=2)])
        load()
        assert Pusher(State(surroundings)).recheck(everything=True) == {"origin_2h": 1}
        assert stored()["departures"] == 2
        assert "origin_2h are not compared once more: Rows of origin_2h lack the columns" in caplog.text
        assert len(waiting()) == 2
        recent.add("origin_2h", odd, time.time() - 60, session)
        until(lambda: len(waiting()) == 1)


def waiting() -> list[bytes]:
    """Return what is to be compared once more."""
    with shards.Shards() as session:
        return [entry for part in recent.due("origin_2h", math.inf, session, forget=False) for entry in part]
