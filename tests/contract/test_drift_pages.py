"""The Drift pages, made from what a check left in the real stores."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from uuid import uuid4

import pytest
from adin.airflow.web import drift as web
from adin.airflow.web import stores
from adin.connections import trying
from adin.drift import engine
from adin.errors import NotFoundError
from adin.models.objects import Bucket
from drift_world import World, rows
from starlette.requests import Request
from test_drift import BROKEN, LEARNED, unit_change

pytestmark = pytest.mark.flow(15)
PROBLEM = "flights_delay"


class Reader:
    """Somebody who may read one problem."""

    def may(self, action: str, model: str) -> bool:
        return (action, model) == ("read", PROBLEM)


WHO = Reader()


@pytest.fixture
def pages(monkeypatch, servers, clickhouse_server):
    """A world in a database of its own, a request, and the pages on its stores, without Airflow's own database."""
    bucket = Bucket(servers.s3, servers.bucket)
    monkeypatch.setattr(stores, "use_drift", lambda: None)
    monkeypatch.setattr(stores, "models", lambda: SimpleNamespace(bucket=bucket))
    conn = replace(clickhouse_server.connection, schema=f"pages_{uuid4().hex[:8]}")
    request = Request({"type": "http", "root_path": "/adin", "headers": [], "path": "/drift", "method": "GET"})
    with trying(conn):
        yield World(conn, PROBLEM), bucket, request


def check(world: World, bucket: Bucket, commit: str) -> engine.Outcome:
    return engine.check(world.source(commit), bucket, "pages", conn=world.connection)


def test_before_the_first_check_the_pages_say_so(pages):
    _, _, request = pages
    assert "not yet" in web.problems(request, WHO)
    assert "Not checked yet" in web.one(request, PROBLEM)
    with pytest.raises(NotFoundError, match="was not checked yet"):
        web.kept(PROBLEM)
    assert web.state(PROBLEM)["result"] is None


def test_the_pages_lead_from_the_problem_to_the_alarm_and_its_report(pages):
    world, bucket, request = pages
    world.store(LEARNED, rows())
    check(world, bucket, LEARNED)
    assert "alarms" not in web.problems(request, WHO)
    assert "No alarm goes on" in web.one(request, PROBLEM)
    world.store(BROKEN, unit_change(rows()))
    found = check(world, bucket, BROKEN).result
    listed = web.problems(request, WHO)
    assert f'<a href="/adin/drift/{PROBLEM}">' in listed
    assert "1 alarm<" in listed
    assert "parking" not in listed
    page = web.one(request, PROBLEM)
    assert "web__amount: distribution (PSI)" in page
    assert page.count("<svg") == len(found["findings"])
    [link] = {each for each in re.findall(r'href="(/adin/drift/[^"]*report[^"]*)"', page) if found["id"] in each}
    assert link == found["report"]
    assert web.kept(PROBLEM, found["id"]).body == web.kept(PROBLEM).body
    assert "<script" not in page + listed
    told = web.state(PROBLEM)
    assert {alarm["subject"] for alarm in told["alarms"]} == {"web__amount"}
    assert told["result"]["id"] == told["checks"][0]["id"] == found["id"]


def test_a_report_that_is_not_there_is_an_error_of_the_user(pages):
    _, _, request = pages
    with pytest.raises(NotFoundError, match="No report"):
        web.kept(PROBLEM, "0" * 16)
    with pytest.raises(NotFoundError):
        web.one(request, "nope")
