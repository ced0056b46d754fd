"""The push API on a real Redis and PostgreSQL: what is written, what is refused and why, what failing servers do."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import json
import math
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from adin.commands.features import app
from adin.connections import Connection
from adin.features import online, repo, shards, store, wire
from adin.features.push import check, recent, refusals, server
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models import registry
from adin.models.access import Access
from adin.settings import settings
from fastapi.testclient import TestClient
from feast import PushSource
from feast.feature_server import get_app
from kfp_server import until
from push_service import Caller, Process, database_url, served, served_with, token
from pyarrow import csv, parquet
from redis_server import RedisServer
from servers import Servers, execute
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(11, 12)
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
    service = repo.Service("one", (view,), {}, (), (), ())
    columns, _ = online.OnlineReader(service).read([{"origin": origin}])
    return {name.partition("__")[2]: values[0] for name, values in columns.items()}


def reasons(answer: httpx.Response) -> list[tuple[int, str, str]]:
    return [(each["row"], each["field"], each["reason"]) for each in answer.json()["refused"]]


def counts(answer: httpx.Response) -> tuple[int, ...]:
    told = answer.json()
    return tuple(told[name] for name in ("rows", "written", "unchanged", "waiting"))


def test_pushed_rows_are_what_serving_and_the_stock_sdk_read(alice: Caller) -> None:
    answer = alice.push([row("JFK"), row("LGA", mean_delay=-3.25, departures=1)])
    assert (answer.status_code, counts(answer), reasons(answer)) == (200, (2, 2, 0, 0), [])
    assert stored("LGA") == {"mean_delay": -3.25, "late_share": 0.25, "departures": 1}
    names = [f"origin_2h:{name}" for name in good()]
    found = store.feature_store().get_online_features(names, [{"origin": "JFK"}, {"origin": "LGA"}]).to_dict()
    assert found["mean_delay"] == [12.5, -3.25]
    assert found["departures"] == [7, 1]


WRONG = {
    "unknown_column": ({"wind": 3}, "wind", "unknown column"),
    "mistyped": ({"departures": "seven"}, "departures", "seven is not a whole number of 32 bits"),
    "not_whole": ({"departures": 7.5}, "departures", "7.5 is not a whole number of 32 bits"),
    "too_large_for_its_type": ({"departures": 2**31}, "departures", "2147483648 is not a whole number of 32 bits"),
    "true_is_no_number": ({"mean_delay": True}, "mean_delay", "True is not a number of single precision"),
    "key_is_null": ({"origin": None}, "origin", "missing key"),
    "key_is_a_number": ({"origin": 5}, "origin", "5 is not text"),
    "broken_rule": (
        {"late_share": 1.7},
        "late_share",
        "1.7 is outside 0 .. 1 (rule in feature_repo/flights/quality.py)",
    ),
    "rule_of_a_key": (
        {"origin": "SFO"},
        "origin",
        "SFO is not one of EWR, JFK, LGA (rule in feature_repo/flights/quality.py)",
    ),
    "null_where_none_may_be": (
        {"mean_delay": None},
        "mean_delay",
        "null is null (rule in feature_repo/flights/quality.py)",
    ),
    "no_time": ({"event_timestamp": None}, "event_timestamp", "missing"),
    "time_without_zone": (
        {"event_timestamp": "2013-09-30T10:00:00"},
        "event_timestamp",
        "2013-09-30T10:00:00 is not a time with its zone, such as 2013-09-30T10:00:00Z",
    ),
    "from_the_future": (
        {"event_timestamp": "2199-01-01T00:00Z"},
        "event_timestamp",
        "2199-01-01T00:00:00Z is in the future",
    ),
    "known_in_the_future": (
        {"created_timestamp": "2199-01-01T00:00Z"},
        "created_timestamp",
        "2199-01-01T00:00:00Z is in the future",
    ),
    "older_than_stored": (
        {"event_timestamp": "2013-09-30T10:00Z"},
        "event_timestamp",
        "2013-09-30T10:00:00Z is older than the stored 2013-09-30T12:00:00Z",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_refused_with_its_place_field_and_reason_and_the_others_are_written(
    alice: Caller, case: str
) -> None:
    changed, field, reason = WRONG[case]
    alice.push([row("JFK", departures=1)])
    later = AT + timedelta(minutes=5)
    answer = alice.push([row("LGA", at=later), row("JFK") | changed, row("EWR", at=later)])
    assert answer.status_code == 422
    assert reasons(answer) == [(1, field, reason)]
    assert counts(answer) == (3, 2, 0, 0)
    assert stored("JFK")["departures"] == 1
    assert [stored(each)["departures"] for each in ("LGA", "EWR")] == [7, 7]


def test_a_row_without_a_column_is_refused_and_never_taken_for_null(alice: Caller) -> None:
    without = {name: value for name, value in row("JFK").items() if name != "mean_delay"}
    answer = alice.push([without, {}, 17, row("LGA")])
    every = [(1, name, "missing") for name in ("departures", "event_timestamp", "late_share", "mean_delay")]
    assert reasons(answer) == [
        (0, "mean_delay", "missing"),
        *every,
        (1, "origin", "missing key"),
        (2, "", "is no object"),
    ]
    assert counts(answer) == (4, 1, 0, 0)


def test_texts_that_no_answer_could_hold_are_refused_like_others_and_stored_unchanged(alice: Caller) -> None:
    tail = {"tailnum": "N1\0\r\n", "last_delay": 1.5, "departed_at": 5, "event_timestamp": AT.isoformat()}
    rows = [tail, tail | {"tailnum": "\ud800"}, tail | {"last_delay": "\0\ud800"}, tail | {"\0\udfff": 1}]
    body = json.dumps(rows).encode()
    answer = alice.push(body, "tail_last", content_type="application/json", idempotency_key="odd")
    assert [(place, field) for place, field, _ in reasons(answer)] == [(1, "tailnum"), (2, "last_delay"), (3, "??")]
    again = alice.push(body, "tail_last", content_type="application/json", idempotency_key="odd")
    assert again.json() == answer.json()
    service = repo.Service("one", (repo.domain("flights").view("tail_last"),), {}, (), (), ())
    assert online.OnlineReader(service).read([tail])[0]["tail_last__last_delay"][0] == 1.5
    many = json.dumps([{f"\ud800{n}": 1 for n in range(50)}]).encode()
    assert alice.push(many, "tail_last", content_type="application/json").status_code == 400


def test_an_oversized_row_is_refused(alice: Caller, limited: Any) -> None:
    limited(push_row_bytes=200)
    long = {"carrier": "x" * 300, "origin": "JFK", "event_timestamp": AT.isoformat(), **good()}
    answer = alice.push([long, {**long, "carrier": "UA"}], "carrier_origin_24h")
    assert [(place, field) for place, field, _ in reasons(answer)] == [(0, "")]
    assert "at most 200 are taken" in reasons(answer)[0][2]
    assert counts(answer) == (2, 1, 0, 0)


def test_of_many_rows_of_one_key_the_newest_is_stored_and_the_same_rows_again_change_nothing(alice: Caller) -> None:
    rows = [
        row("JFK", at=AT + timedelta(minutes=n), departures=n + 1, created_timestamp="2013-10-01T00:00Z")
        for n in (3, 9, 1)
    ]
    assert counts(alice.push(rows)) == (3, 1, 2, 0)
    assert stored()["departures"] == 10
    again = alice.push(rows[1:2])
    assert (again.status_code, counts(again)) == (200, (1, 0, 1, 0))


def test_a_correction_of_the_stored_moment_replaces_it(alice: Caller) -> None:
    alice.push([row("JFK", departures=1)])
    assert counts(alice.push([row("JFK", departures=2)])) == (1, 1, 0, 0)
    assert stored()["departures"] == 2


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_arrow_and_csv_are_judged_like_json(alice: Caller) -> None:
    table = pa.table(
        {
            "origin": ["JFK", "LGA", None],
            "event_timestamp": pa.array([AT] * 3, pa.timestamp("ns", "Asia/Tehran")),
            "mean_delay": [1.0, 2.0, 3.0],
            "late_share": [0.5, 2.0, 0.5],
            "departures": pa.array([1, 2, 3], pa.int64()),
        }
    )
    answer = alice.push(stream(table), content_type="application/vnd.apache.arrow.stream")
    expected = [
        (1, "late_share", "2.0 is outside 0 .. 1 (rule in feature_repo/flights/quality.py)"),
        (2, "origin", "missing key"),
    ]
    assert (answer.status_code, reasons(answer), counts(answer)) == (422, expected, (3, 1, 0, 0))
    lines = ["origin,event_timestamp,mean_delay,late_share,departures"]
    lines += ["LGA,2013-09-30T12:00Z,1.5,0.5,4", "EWR,2013-09-30T12:00Z,much,0.5,4"]
    answer = alice.push("\n".join(lines).encode(), content_type="text/csv")
    assert reasons(answer) == [(1, "mean_delay", "much is not a number of single precision")]
    assert stored("JFK")["departures"] == 1 and stored("LGA")["departures"] == 4


def test_in_csv_only_what_is_empty_is_null(alice: Caller) -> None:
    lines = ["origin,event_timestamp,mean_delay,late_share,departures"]
    lines += [f"{origin},2013-09-30T12:00Z,{delay},0.5,4" for origin, delay in [("NA", 1), ('""', 1), ("", 1)]]
    lines += [f"JFK,2013-09-30T12:00Z,{delay},0.5,4" for delay in ("NA", "")]
    answer = alice.push("\n".join(lines).encode(), content_type="text/csv")
    rule = "(rule in feature_repo/flights/quality.py)"
    assert reasons(answer) == [
        (0, "origin", f"NA is not one of EWR, JFK, LGA {rule}"),
        (1, "origin", f" is not one of EWR, JFK, LGA {rule}"),
        (2, "origin", "missing key"),
        (3, "mean_delay", "NA is not a number of single precision"),
        (4, "mean_delay", f"null is null {rule}"),
    ]


def test_a_row_marked_as_deleted_takes_its_entity_away_and_rows_without_the_mark_are_written(
    surroundings: Connection, access: Access, secret: str
) -> None:
    pusher = Pusher(State(surroundings))
    target = pusher.targets["origin_2h"]
    pusher.targets["origin_2h"] = replace(target, view=replace(target.view, deleted="gone"))
    with served_with(pusher, access) as address:
        caller = Caller(address, secret)
        assert caller.schema("origin_2h").json()["deleted"]["name"] == "gone"
        assert counts(caller.push([row("JFK"), row("LGA", gone=None), row("EWR", gone=False)])) == (3, 3, 0, 0)
        assert stored("JFK")["departures"] == stored("LGA")["departures"] == stored("EWR")["departures"] == 7
        later = AT + timedelta(minutes=1)
        answer = caller.push([row("JFK", at=later, gone=True), row("LGA", at=later, gone="yes")])
        assert reasons(answer) == [(1, "gone", "yes is not true or false")]
        assert np.isnan(stored("JFK")["departures"]) and stored("LGA")["departures"] == 7
        assert caller.push([row("JFK")]).status_code == 422, "older than the mark"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"rows": 5}', "application/json", 400),
        (b"[]", "application/json", 400),
        (b'[{"origin": NaN}]', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"ARROW1", "application/vnd.apache.arrow.stream", 400),
        (b"<rows/>", "application/xml", 400),
        (json.dumps([{f"column{n}": 1 for n in range(50)}]).encode(), "application/json", 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_as_a_whole(alice: Caller, body: bytes, kind: str, status: int) -> None:
    answer = alice.push(body, content_type=kind)
    assert answer.status_code == status and answer.json()["error"]


def test_an_arrow_stream_that_grows_when_it_is_read_is_refused(alice: Caller) -> None:
    table = pa.table({"origin": ["JFK"] * 10_000})
    for content, options in (
        (table, {"compression": "zstd"}),
        (table.from_arrays([table["origin"].dictionary_encode()], ["origin"]), {}),
    ):
        answer = alice.push(stream(content, **options), content_type="application/vnd.apache.arrow.stream")
        assert answer.status_code == 400 and "not taken" in answer.json()["error"]


def test_too_many_bytes_or_rows_are_answered_413(alice: Caller, limited: Any) -> None:
    limited(push_rows=3)
    assert alice.push([row()] * 4).status_code == 413
    limited(push_rows=3, push_bytes=1000)
    assert alice.push([row(note="x" * 2000)]).status_code == 413
    assert alice.push([row()]).status_code == 200


def test_who_pushes_too_much_is_answered_429_with_the_time_to_wait_and_others_are_not(
    surroundings: Connection, access: Access, secret: str, limited: Any
) -> None:
    limited(push_rate=1, push_requests=1000)
    bob = token(access, "bob", "origin_2h")
    with served(surroundings) as address:
        first = Caller(address, secret).push([row("JFK", at=AT + timedelta(seconds=n)) for n in range(15)])
        assert first.status_code == 200
        slow = Caller(address, secret).push([row()])
        assert slow.status_code == 429 and 1 <= int(slow.headers["retry-after"]) <= 6
        assert Caller(address, bob).push([row(at=AT + timedelta(hours=1))]).status_code == 200
    limited(push_rate=1000, push_requests=0.2)
    with served(surroundings) as address:
        answers = [Caller(address, bob).push([row(at=AT + timedelta(hours=2))]).status_code for _ in range(5)]
    assert (answers[0], answers[-1]) == (200, 429)


def test_the_same_key_and_body_get_the_same_answer_and_nothing_is_written_twice_also_after_a_kill(
    surroundings: Connection, secret: str
) -> None:
    process = Process(surroundings)
    try:
        caller = Caller(process.url, secret)
        rows = [row("JFK", departures=3), row("LGA", late_share=7)]
        first = caller.push(rows, idempotency_key="k-1")
        assert first.status_code == 422
        caller.push([row("JFK", departures=4)])
        process.kill()
        process.start()
        again = caller.push(rows, idempotency_key="k-1")
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert stored()["departures"] == 4
        other = caller.push([row("JFK", departures=5)], idempotency_key="k-1")
        assert other.status_code == 422 and "another body" in other.json()["error"]
        assert stored()["departures"] == 4
    finally:
        process.kill()


def test_a_request_whose_worker_died_is_let_in_again_after_a_while_and_writes_what_it_would_have_written(
    alice: Caller, servers: Servers, redis_server: RedisServer
) -> None:
    assert alice.push([row("JFK")], idempotency_key="died").status_code == 200
    before = redis_server.content()
    mine = "WHERE who = 'alice' AND key = 'died'"
    execute(servers.database, f"UPDATE push.answer SET status = NULL, document = NULL {mine}")
    early = alice.push([row("JFK")], idempotency_key="died")
    assert early.status_code == 409 and int(early.headers["retry-after"]) > 0
    execute(servers.database, f"UPDATE push.answer SET claimed = claimed - interval '2 minutes' {mine}")
    assert counts(alice.push([row("JFK")], idempotency_key="died")) == (1, 0, 1, 0)
    assert redis_server.content() == before


def test_of_the_same_request_sent_many_times_at_once_one_is_written(alice: Caller, surroundings: Connection) -> None:
    def ask(_: int) -> httpx.Response:
        return alice.push([row("JFK")], idempotency_key="at-once")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    (request,) = {answer.json()["request"] for answer in answers if answer.status_code == 200}
    first = [each for each in State(surroundings).audit(50) if each["request"] == request]
    assert [each["written"] for each in first if not each["repeated"]] == [1]
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 409)


def test_of_rows_pushed_at_once_the_newest_wins(alice: Caller) -> None:
    def ask(n: int) -> int:
        return alice.push([row("JFK", at=AT + timedelta(seconds=n), departures=n + 1)]).status_code

    order = np.random.default_rng(7).permutation(40).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, order)) <= {200, 422}
    assert stored()["departures"] == 40


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


def test_every_request_is_in_an_audit_log_that_cannot_be_changed_and_holds_no_value(
    alice: Caller, secret: str, surroundings: Connection, servers: Servers
) -> None:
    answer = alice.push([row("JFK", departures=7654321), row("LGA", late_share=6.54321)])
    last = State(surroundings).audit(1)[0]
    told = {name: last[name] for name in ("request", "who", "token", "view", "status", "rows", "written", "refused")}
    assert told == {
        "request": answer.json()["request"],
        "who": "alice",
        "token": secret.split("_")[1],
        "view": "origin_2h",
        "status": 422,
        "rows": 2,
        "written": 1,
        "refused": 1,
    }
    assert not any(part in str(State(surroundings).audit()) for part in ("7654321", "6.54321", secret.split("_", 2)[2]))
    for change in ("UPDATE push.audit SET who = 'bob'", "DELETE FROM push.audit", "TRUNCATE push.audit"):
        with pytest.raises(Exception, match="append-only"):
            execute(servers.database, change)


# --- requests that no worker saw


@pytest.fixture
def new_lines(surroundings: Connection) -> Any:
    """Return the audit log's lines of requests since the test began, oldest first."""
    began = datetime.now(UTC)

    def lines() -> list[dict[str, Any]]:
        # the service that other tests share may write theirs meanwhile
        return [line for line in reversed(State(surroundings).audit(10_000)) if line["time"] >= began]

    return lines


def _told(lines: list[dict[str, Any]]) -> set[tuple[str, str, str, int, int]]:
    return {tuple(line[name] for name in ("who", "token", "view", "status", "times")) for line in lines}


def test_every_request_that_is_refused_before_a_worker_sees_it_is_in_the_audit_log(
    surroundings: Connection, access: Access, limited: Any, new_lines: Any
) -> None:
    limited(push_bytes=1000, push_requests=0.05, push_parallel=1, push_waiting=0)
    weather = token(access, "carol", "weather")
    dora, fred, gina, hugo = (token(access, each, "*") for each in ("dora", "fred", "gina", "hugo"))
    gone = token(access, "dora")
    access.withdraw(_public(gone), actor="root", reason="test")
    with served(surroundings) as address:
        asked = [
            Caller(address, "adin_x").push([row()]),
            Caller(address, gone).push([row()]),
            Caller(address, weather).push([row()]),
            Caller(address, dora).push([row()], "nowhere"),
            Caller(address, dora).push([row(note="x" * 2000)]),
            *(Caller(address, dora).push([row()]) for _ in range(2)),
            Caller(address, hugo).push([row()], idempotency_key="x" * 300),
        ]
        with _half_a_request(address, fred):
            while Caller(address, gina).push([row()]).status_code != 503:
                time.sleep(0.1)
    assert [answer.status_code for answer in asked] == [401, 401, 403, 404, 413, 429, 429, 400]
    lines = [line for line in new_lines() if line["who"] != "gina" or line["status"] == 503]
    assert _told(lines) == {
        ("", "", "origin_2h", 401, 1),
        ("", _public(gone), "origin_2h", 401, 1),
        ("carol", _public(weather), "origin_2h", 403, 1),
        ("dora", _public(dora), "nowhere", 404, 1),
        ("dora", _public(dora), "origin_2h", 413, 1),
        ("dora", _public(dora), "origin_2h", 429, 2),
        ("hugo", _public(hugo), "origin_2h", 400, 1),
        ("gina", _public(gina), "origin_2h", 503, 1),
        ("fred", _public(fred), "origin_2h", 400, 1),
    }
    for line in lines:
        assert [line[name] for name in ("rows", "written", "unchanged", "refused", "waiting")] == [0] * 5
        assert line["time"] <= datetime.now(UTC)
    shown = CliRunner().invoke(app, ["push-log", "--last", "20", "--json"], catch_exceptions=False).stdout
    assert {(each["who"], each["status"]): each["times"] for each in json.loads(shown)}["dora", 429] == 2


def _public(secret: str) -> str:
    return secret.split("_")[1]


@contextlib.contextmanager
def _half_a_request(address: str, secret: str) -> Iterator[None]:
    """Be within the service with a request that does not end; in the end go away."""
    where = urlsplit(address)
    head = f"POST /v1/views/origin_2h/rows HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {secret}\r\n"
    with socket.create_connection((where.hostname, where.port)) as half:
        half.sendall(f"{head}Content-Length: 500\r\n\r\n[".encode())
        yield


def test_a_flood_without_a_token_is_a_few_lines_whatever_views_it_asks_for(
    surroundings: Connection, monkeypatch: pytest.MonkeyPatch, new_lines: Any
) -> None:
    monkeypatch.setattr(server, "_REFUSALS", 3600)
    with served(surroundings) as address, httpx.Client(base_url=address) as stranger:
        for n in range(200):
            view = f"%1B[2J[red]%00%F0%9F%98%80{n}" + "y" * 300 if n % 2 else "origin_2h"
            secret = {"Authorization": f"Bearer adin_{n:012x}_{'s' * 43}"}
            assert stranger.post(f"/v1/views/{view}/rows", content=b"[]", headers=secret).status_code == 401
        assert new_lines() == []
    lines = new_lines()
    assert len(lines) == refusals.VIEWS + 1
    assert sum(line["times"] for line in lines) == 200
    assert {line["view"]: line["times"] for line in lines}["origin_2h"] == 100
    assert {line["view"]: line["times"] for line in lines}[refusals.OTHERS] == 100 - refusals.VIEWS + 1
    assert ("?[2J[red]?😀1" + "y" * 300)[:100] in {line["view"] for line in lines}
    assert {(line["who"], line["token"]) for line in lines} == {("", "")}
    shown = CliRunner().invoke(app, ["push-log"], catch_exceptions=False, env={"COLUMNS": "500"}).stdout
    assert "?[2J[red]?" in shown and "\x1b" not in shown


def test_refusals_are_written_while_the_service_runs_and_wait_for_a_database_that_does_not_take_them(
    surroundings: Connection, secret: str, servers: Servers, monkeypatch: pytest.MonkeyPatch, new_lines: Any
) -> None:
    monkeypatch.setattr(server, "_REFUSALS", 0.2)
    with served(surroundings) as address:
        assert Caller(address, "wrong").push([row()]).status_code == 401
        until(lambda: _told(new_lines()) == {("", "", "origin_2h", 401, 1)})
        execute(servers.database, "ALTER SCHEMA push RENAME TO away")
        try:
            assert [Caller(address, "wrong").push([row()]).status_code for _ in range(3)] == [401] * 3
            assert Caller(address, secret).push([row()]).status_code == 503
            time.sleep(1)
        finally:
            execute(servers.database, "ALTER SCHEMA away RENAME TO push")
        mine = ("alice", secret.split("_")[1], "origin_2h", 503, 1)
        until(lambda: _told(new_lines()[1:]) == {("", "", "origin_2h", 401, 3), mine})


def test_an_audit_log_of_an_earlier_service_is_kept_and_written_on(surroundings: Connection, servers: Servers) -> None:
    name = f"{servers.database.schema}-old"
    execute(servers.database, f'CREATE DATABASE "{name}"')
    old = replace(servers.database, schema=name)
    try:
        for statement in AUDIT_OF_1_0:
            execute(old, statement)
        push = replace(surroundings, extra={"database": database_url(old)})
        for _ in range(2):  # also where the column is there already
            with served(push) as address:
                assert Caller(address, "wrong").push([row()]).status_code == 401
        lines = State(push).audit()
        assert [(line["who"], line["status"], line["times"]) for line in lines] == [
            ("", 401, 1),
            ("", 401, 1),
            ("old", 200, 1),
        ]
        with pytest.raises(Exception, match="append-only"):
            execute(old, "UPDATE push.audit SET times = 2")
    finally:
        execute(servers.database, f'DROP DATABASE "{name}" WITH (FORCE)')


AUDIT_OF_1_0 = (
    "CREATE SCHEMA push",
    """CREATE TABLE push.audit (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL DEFAULT now(), request text NOT NULL, who text NOT NULL, token text NOT NULL,
    view text NOT NULL, status int NOT NULL, rows int NOT NULL, written int NOT NULL, unchanged int NOT NULL,
    refused int NOT NULL, waiting int NOT NULL, repeated boolean NOT NULL)""",
    """CREATE FUNCTION push.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME; END $$""",
    """CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON push.audit
    FOR EACH STATEMENT EXECUTE FUNCTION push.refuse_change()""",
    """INSERT INTO push.audit (request, who, token, view, status, rows, written, unchanged, refused, waiting, repeated)
    VALUES ('r', 'old', 't', 'origin_2h', 200, 1, 1, 0, 0, 0, false)""",
)


def test_no_route_answers_without_a_token_that_is_good_for_the_view(url: str, access: Access) -> None:
    routes = _routes()
    assert routes, "no route was found"
    weather = token(access, "carol", "weather")
    for secret, status in (("", 401), ("adin_x", 401), (weather, 403)):
        for method, path in routes:
            answer = httpx.request(
                method, url + path.format(view="origin_2h"), headers={"Authorization": f"Bearer {secret}".strip()}
            )
            assert answer.status_code == status, (method, path)
    assert Caller(url, weather).schema("weather").status_code == 200
    access.withdraw(weather.split("_")[1], actor="root", reason="test")
    assert Caller(url, weather).schema("weather").status_code == 401
    admin = access.issue("root", actor="root", reason="test")
    access.grant("root", "admin", "*", actor="root", reason="test")
    assert Caller(url, admin).push([row()], "nowhere").status_code == 404


def _routes() -> list[tuple[str, str]]:
    """Every route but those of health and metrics."""
    from adin.features.push.server import application

    made = application(Pusher(State()), Access(registry().store))
    found = [(method, route.path) for route in made.routes for method in route.methods]
    return [(method, path) for method, path in found if not path.startswith(("/health/", "/metrics"))]


def test_the_schema_tells_keys_types_rules_and_limits(alice: Caller) -> None:
    told = alice.schema("origin_2h").json()
    assert [(key["name"], key["type"]) for key in told["keys"]] == [("origin", "String")]
    assert [(each["name"], each["type"], each["rules"]) for each in told["features"]] == [
        ("mean_delay", "Float32", ["is null", "outside -120 .. 2000"]),
        ("late_share", "Float32", ["is null", "outside 0 .. 1"]),
        ("departures", "Int32", ["is null", "below 1"]),
    ]
    assert told["event_time"]["name"] == "event_timestamp"
    assert told["limits"]["rows"] == settings().push_rows


# --- Redis and the database fail


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


@pytest.fixture
def own_redis(surroundings: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    monkeypatch.setenv("ADIN_CONN_FEAST", server.connection.uri)
    yield server
    server.kill()


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


# --- the command


def test_the_command_writes_a_file_shows_what_is_refused_and_puts_it_beside_the_file(
    url: str, secret: str, surroundings: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: Any
) -> None:
    limited(push_rows=4)
    address = urlsplit(url)
    conn = replace(surroundings, host=address.hostname or "", port=address.port, password=secret)
    monkeypatch.setenv("ADIN_CONN_PUSH", conn.uri)
    rows = [row("JFK", at=AT + timedelta(minutes=n), departures=n + 1) for n in range(10)]
    rows[5] |= {"late_share": 1.7}
    rows[9] |= {"origin": None}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    table = pa.Table.from_pylist(rows)
    times = table["event_timestamp"].cast(pa.timestamp("us", "UTC"))
    csv.write_csv(table, tmp_path / "rows.csv")
    parquet.write_table(table.set_column(1, "event_timestamp", times), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.csv", "rows.parquet"):
        with wire.Session() as session:
            session.exchange(wire.command(b"FLUSHALL"), 1)
        done = CliRunner().invoke(app, ["push", "origin_2h", str(tmp_path / name)], catch_exceptions=False)
        assert done.exit_code == 1, done.output
        lines = done.stdout.splitlines()
        assert lines[0] == "2 of 10 rows refused, 3 written, 5 changed nothing"
        reason = "1.7 is outside 0 .. 1 (rule in feature_repo/flights/quality.py)"
        assert lines[1].split() == ["row", "5", "late_share", *reason.split()]
        assert lines[2].split() == ["row", "9", "origin", "missing", "key"]
        assert stored()["departures"] == 9
        refused = json.loads((tmp_path / "rows.refused.json").read_text())
        assert [float(each["late_share"]) for each in refused] == [1.7, 0.25]
    file.write_text(json.dumps(rows[:5]))
    done = CliRunner().invoke(app, ["push", "origin_2h", str(file), "--json"], catch_exceptions=False)
    assert (done.exit_code, json.loads(done.stdout)["refused"][0]["field"]) == (1, "event_timestamp")
    newest = [row("JFK", at=AT + timedelta(days=1))]
    file.write_text(json.dumps({"rows": newest}))
    assert CliRunner().invoke(app, ["push", "origin_2h", str(file)], catch_exceptions=False).exit_code == 0
    log = json.loads(CliRunner().invoke(app, ["push-log", "--last", "1", "--json"], catch_exceptions=False).stdout)
    assert (log[0]["who"], log[0]["written"]) == ("alice", 1)


def test_the_commands_list_and_write_what_waits(own_redis: RedisServer, surroundings: Connection, secret: str) -> None:
    with served(surroundings) as address:
        own_redis.kill()
        answer = Caller(address, secret).push([row("JFK", departures=55)], prefer="respond-async")
        own_redis.start()
    letter = answer.json()["dead_letter"]
    shown = json.loads(CliRunner().invoke(app, ["dead-letters", "--json"], catch_exceptions=False).stdout)
    assert letter in {each["id"] for each in shown}
    done = json.loads(CliRunner().invoke(app, ["replay", "--json"], catch_exceptions=False).stdout)
    assert {"dead_letter": letter, "outcome": "1 of 1 written"} in done
    assert stored()["departures"] == 55
    assert json.loads(CliRunner().invoke(app, ["dead-letters", "--json"], catch_exceptions=False).stdout) == []


# --- stock Feast


def test_every_view_is_a_push_source_of_the_stock_sdk_and_feature_server(alice: Caller, access: Access) -> None:
    feast = store.feature_store()
    named = {source.name for source in feast.list_data_sources() if isinstance(source, PushSource)}
    assert named == {f"{name}_push" for name, each in check.targets().items() if each.domain == "flights"}
    frame = pd.DataFrame([{**row("JFK", departures=31), "event_timestamp": AT, "created_timestamp": AT}])
    feast.push("origin_2h_push", frame)
    assert stored()["departures"] == 31
    # what we push next is judged against what Feast wrote
    older = alice.push([row("JFK", at=AT - timedelta(minutes=1))])
    assert [field for _, field, _ in reasons(older)] == ["event_timestamp"]
    frame["event_timestamp"] = frame["created_timestamp"] = (AT + timedelta(minutes=1)).isoformat()
    frame["departures"] = 32
    asked = {"push_source_name": "origin_2h_push", "df": frame.to_dict("list"), "to": "online"}
    with TestClient(get_app(feast)) as server:
        assert server.post("/push", json=asked).status_code == 200
    assert stored()["departures"] == 32
    assert store.plan("flights").changes == ()
