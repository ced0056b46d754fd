"""Webhooks: signed, in order, at least once, and never in the way of a change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConfigError, SignInError
from adin.models import Registry, events, registry
from adin.models.events import Deliverer, Webhook, signed, verify
from adin.settings import settings
from model_facts import files, register, validated
from monitoring_servers import AlertServer, get
from processes import at_once, told_and_killed
from server_fixtures import PORT_BASE
from servers import Servers
from typer.testing import CliRunner
from waiting import until

pytestmark = pytest.mark.flow(16)

KEY = "a key of the test"


@dataclass
class Receiver:
    """A real HTTP server which takes events, or refuses as many as it is told to."""

    port: int = 0
    refuse: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    @property
    def heard(self) -> list[tuple[int, str]]:
        return [(event["seq"], event["event"]) for event in self.taken]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if found.refuse:
                found.refuse, found.refused = found.refuse - 1, found.refused + 1
                self.send_response(503)
            else:
                event = verify(KEY, dict(self.headers.items()), body)
                assert event["id"] == self.headers[events.ID]
                found.taken.append(event)
                self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()


@pytest.fixture
def hook(receiver: Receiver, model: str) -> Webhook:
    return Webhook(model.replace("_", "-"), f"http://127.0.0.1:{receiver.port}/hook", KEY, models=f"{model}*")


@pytest.fixture
def models(edition: Connection, servers: Servers) -> Registry:
    return registry(edition, s3=servers.s3)


def test_a_webhook_is_told_every_change_in_order_once_and_signed(
    models: Registry, model: str, hook: Webhook, receiver: Receiver, tmp_path: Path
) -> None:
    register(models, model, files(tmp_path), "before")
    deliverer = Deliverer(models, [hook])
    assert [each.sent for each in deliverer.once()] == [0]  # a new one begins with what happens from now on
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    assert events.status(models, hook).behind == 3
    assert [(each.sent, each.failure) for each in deliverer.once()] == [(3, "")]
    assert receiver.heard == [(2, "register"), (3, "validate"), (4, "promote")]
    assert [event["id"] for event in receiver.taken] == [entry.id for entry in models.log(model)[1:]]
    assert (receiver.taken[-1]["aliases"], receiver.taken[-1]["actor"]) == ({"champion": 2}, "kfp")
    assert [each.sent for each in Deliverer(models, [hook]).once()] == [0]
    register(models, f"{model}_new", files(tmp_path), "run-1")
    deliverer.once()
    assert receiver.taken[-1]["model"] == f"{model}_new"


def test_a_receiver_that_is_down_stops_no_promotion_and_gets_everything_later_in_order(
    models: Registry, model: str, hook: Webhook, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("adin.models.events.time.monotonic", lambda: now[0])
    deliverer = Deliverer(models, [replace(hook, url="http://127.0.0.1:1/hook", name=f"{hook.name}-dead"), hook])
    deliverer.once()
    receiver.refuse = 3
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    assert models.state(model).champion == number
    tries = []
    for _ in range(60):
        now[0] += 1
        tries.append([each.webhook for each in deliverer.once() if each.failure])
    # the dead one did not hold up the other, and was asked ever more seldom
    assert receiver.heard == [(1, "register"), (2, "validate"), (3, "promote")]
    assert receiver.refused == 3
    dead = [n for n, failed in enumerate(tries) if f"{hook.name}-dead" in failed]
    waits = [after - before for before, after in pairwise(dead)]
    assert 3 < len(dead) < 12
    assert waits[-1] > waits[0]


def test_a_webhook_is_told_only_what_it_asked_for_and_does_not_fall_behind(
    models: Registry, model: str, hook: Webhook, receiver: Receiver, tmp_path: Path
) -> None:
    picky = replace(hook, events=frozenset({"promote"}))
    deliverer = Deliverer(models, [picky])
    deliverer.once()
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    models.append(model, "freeze", actor="duty", reason="holiday")
    deliverer.once()
    assert receiver.heard == [(3, "promote")]
    assert events.status(models, picky).taken == {model: 4}


def test_what_was_sent_by_a_deliverer_that_was_killed_is_sent_again_with_the_same_id(
    models: Registry,
    edition: Connection,
    servers: Servers,
    model: str,
    hook: Webhook,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    Deliverer(models, [hook]).once()
    validated(models, model, files(tmp_path), "run-1")
    at_once(1, told_and_killed, edition, servers.s3, hook)
    assert receiver.heard == [(1, "register"), (2, "validate")]
    Deliverer(models, [hook]).once()
    assert receiver.heard == [(1, "register"), (2, "validate")] * 2
    assert len({event["id"] for event in receiver.taken}) == 2
    Deliverer(models, [hook]).once()
    assert len(receiver.taken) == 4


def test_a_forged_an_altered_and_an_old_event_are_refused_by_a_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"event":"promote"}'
    headers = signed(KEY, "1", body)
    assert verify(KEY, {name.upper(): value for name, value in headers.items()}, body) == {"event": "promote"}
    for key, given, content in (
        ("another key", headers, body),
        (KEY, headers, body.replace(b"promote", b"retire")),
        (KEY, headers | {events.TIME: str(int(headers[events.TIME]) + 1)}, body),
        (KEY, {}, body),
    ):
        with pytest.raises(SignInError, match="signature"):
            verify(key, given, content)
    monkeypatch.setattr("adin.models.events.time.time", lambda: 1_000_000)
    with pytest.raises(SignInError, match="ago"):
        verify(KEY, signed(KEY, "1", body), body)


def test_the_commands_deliver_to_the_webhooks_of_the_settings(
    models: Registry,
    edition: Connection,
    servers: Servers,
    model: str,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = model.replace("_", "")
    conn = Connection("webhook", "127.0.0.1", receiver.port, password=KEY, schema="hook", extra={"models": model})
    for key, value in (
        ("ADIN_CONN_AMVERSION", edition.uri),
        ("ADIN_CONN_S3", servers.s3.uri),
        ("ADIN_MODEL_WEBHOOKS", json.dumps([name])),
        (f"ADIN_CONN_WEBHOOK_{name.upper()}", conn.uri),
    ):
        monkeypatch.setenv(key, value)
    settings.cache_clear()

    def ask(word: str) -> Any:
        done = CliRunner().invoke(app, ["events", word, "--json"], catch_exceptions=False)
        assert KEY not in done.stdout
        return json.loads(done.stdout)[0]

    try:
        assert ask("status")["behind"] == 0
        validated(models, model, files(tmp_path), "run-1")
        assert ask("status")["behind"] == 2
        assert (ask("deliver")["sent"], ask("deliver")["sent"]) == (2, 0)
        assert receiver.heard == [(1, "register"), (2, "validate")]
        monkeypatch.setenv(f"ADIN_CONN_WEBHOOK_{name.upper()}", replace(conn, password="").uri)
        with pytest.raises(ConfigError, match="key of the signature"):
            ask("status")
    finally:
        settings.cache_clear()


def test_the_alert_service_delivers_to_a_receiver_that_was_away_and_goes_on_after_a_kill(
    models: Registry,
    edition: Connection,
    servers: Servers,
    model: str,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = model.replace("_", "")
    conn = Connection("webhook", "127.0.0.1", receiver.port, password=KEY, schema="hook", extra={"models": model})
    monkeypatch.setenv("ADIN_MODEL_WEBHOOKS", json.dumps([name]))
    monkeypatch.setenv("ADIN_WEBHOOK_PAUSE", "0.2")
    monkeypatch.setenv(f"ADIN_CONN_WEBHOOK_{name.upper()}", conn.uri)
    events.status(models, replace(Webhook(name, conn.url, KEY), models=model))  # what is told begins here
    nowhere = Connection("alertmanager", "127.0.0.1", 1)
    service = AlertServer(tmp_path / "home", PORT_BASE + 50, edition, servers.s3, nowhere)
    receiver.refuse = 2
    service.start()
    try:
        number = register(models, model, files(tmp_path), "run-1")
        until(lambda: receiver.heard)
        assert f'adin_webhook_failures_total{{webhook="{name}"}} 2.0' in get(f"{service.address}/metrics")
        service.kill()
        models.append(model, "validate", version=number, actor="test", reason="checks passed", run_key="run-1")
        service.start()
        until(lambda: len(receiver.heard) > 1)
    finally:
        service.kill()
    assert dict.fromkeys(receiver.heard) == {(1, "register"): None, (2, "validate"): None}
    assert KEY not in service.log.read_text()
