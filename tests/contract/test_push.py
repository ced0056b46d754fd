"""The push API on a real Redis and PostgreSQL: what is written, what is refused and why, how it is asked."""

from __future__ import annotations

import concurrent.futures
import json
from dataclasses import replace
from datetime import timedelta
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
from adin.features import online, repo, store, wire
from adin.features.push import check
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models.access import Access
from adin.settings import settings
from fastapi.testclient import TestClient
from feast import PushSource
from feast.feature_server import get_app
from push_service import Caller, Process, served, served_with, token
from push_world import (
    AT,
    access,
    alice,
    counts,
    empty_store,
    good,
    limited,
    own_redis,
    reasons,
    row,
    secret,
    stored,
    stream,
    surroundings,
    url,
)
from pyarrow import csv, parquet
from redis_server import RedisServer
from servers import Servers, execute
from typer.testing import CliRunner

__all__ = ["access", "alice", "empty_store", "limited", "own_redis", "secret", "surroundings", "url"]

pytestmark = pytest.mark.flow(11, 12)


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
    service = repo.Service("one", (repo.domain("flights").view("tail_last"),), (), (), ())
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
