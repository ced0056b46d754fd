"""Who may push, and what the audit log of the push API tells."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from adin.commands.features import app
from adin.connections import Connection
from adin.features.push import refusals, server
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models import registry
from adin.models.access import Access
from push_service import Caller, database_url, served, token
from push_world import access, alice, empty_store, limited, row, secret, surroundings, url
from servers import Servers, execute
from typer.testing import CliRunner
from waiting import until

__all__ = ["access", "alice", "empty_store", "limited", "secret", "surroundings", "url"]

pytestmark = pytest.mark.flow(11, 12)


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


def test_no_route_answers_without_a_token_that_is_good_for_the_view(url: str, access: Access) -> None:
    routes = _routes()
    assert routes, "no route was found"
    weather = token(access, "carol", "weather")
    for shown, status in (("", 401), ("adin_x", 401), (weather, 403)):
        for method, path in routes:
            answer = httpx.request(
                method, url + path.format(view="origin_2h"), headers={"Authorization": f"Bearer {shown}".strip()}
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
