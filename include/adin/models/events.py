"""What happens to models, told to others over HTTP.

The log itself is the outbox: who changes a model writes its log and nothing else, and never waits for a receiver. A
deliverer, a process of its own, sends each webhook the entries behind the last one it took, in order of each log, and
notes how far it is. What was sent but not yet noted is sent again: a receiver tells repetitions by the event's id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from adin.connections import connection
from adin.errors import AdinError, ConfigError, SignInError
from adin.models.log import EVENTS, Entry
from adin.models.registry import Registry
from adin.models.search import Query, named
from adin.settings import settings

log = logging.getLogger(__name__)

ID, TIME, SIGNATURE = "X-Adin-Event-Id", "X-Adin-Timestamp", "X-Adin-Signature"
#: Seconds before the second try, and the most between two.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0


@dataclass(frozen=True)
class Webhook:
    """A receiver: the connection ``webhook_<name>``, whose password is the key of the signature.

    :param models: names it is told about, with ``*`` for any letters; extra ``models``.
    :param events: events it is told about; extra ``events``, default all.
    """

    name: str
    url: str
    key: str = field(repr=False)
    models: str = "*"
    events: frozenset[str] = frozenset(EVENTS)

    @classmethod
    def of(cls, name: str) -> Webhook:
        """Return a webhook of ``settings().model_webhooks``.

        :raises ConfigError: its connection is missing, has no key, or names unknown events.
        """
        conn = connection(f"webhook_{name}")
        events = frozenset(conn.extra.get("events", EVENTS))
        if not conn.password:
            raise ConfigError(f"The connection webhook_{name} has no password.", "It is the key of the signature.")
        if odd := events - set(EVENTS):
            raise ConfigError(f"The connection webhook_{name} names unknown events: {', '.join(sorted(odd))}.")
        return cls(name, f"{conn.url}/{conn.schema}", conn.password, conn.extra.get("models", "*"), events)


@dataclass
class Delivery:
    """How far a webhook is.

    :param taken: number of the last entry taken, by model.
    :param behind: entries still to be sent.
    :param failure: why the last try failed, empty if it did not.
    """

    webhook: str
    taken: dict[str, int]
    behind: int = 0
    sent: int = 0
    failure: str = ""


def webhooks() -> list[Webhook]:
    """Return all webhooks there are."""
    return [Webhook.of(name) for name in settings().model_webhooks]


def status(models: Registry, webhook: Webhook) -> Delivery:
    """Return how far a webhook is; sends nothing."""
    taken, _ = _taken(models, webhook)
    found = Delivery(webhook.name, taken)
    for name in _models(models, webhook):
        found.behind += sum(entry.event in webhook.events for entry in models.log(name)[taken.get(name, 0) :])
    return found


def deliver(models: Registry, webhook: Webhook, send: Callable[[str, bytes, Mapping[str, str]], None]) -> Delivery:
    """Send all that a webhook has not taken yet, until something fails.

    :param send: posts a body with headers to an address and raises if it was not taken.
    """
    taken, tag = _taken(models, webhook)
    found = Delivery(webhook.name, dict(taken))
    try:
        for name in _models(models, webhook):
            for entry in models.log(name)[found.taken.get(name, 0) :]:
                if entry.event in webhook.events:
                    body = _body(entry)
                    send(webhook.url, body, signed(webhook.key, entry.id, body))
                    found.sent += 1
                found.taken[name] = entry.seq
    except Exception as error:
        found.failure = str(error) or type(error).__name__
        log.warning("webhook %s: %s", webhook.name, found.failure)
    if found.taken != taken:
        _note(models, webhook, found.taken, tag)
    return found


class Deliverer:
    """Delivers to all webhooks again and again; one that fails waits longer each time, and holds up no other."""

    def __init__(self, models: Registry, hooks: list[Webhook]) -> None:
        import httpx

        self._models, self._hooks = models, hooks
        timeout = httpx.Timeout(settings().read_timeout, connect=settings().connect_timeout)
        self._http = httpx.Client(timeout=timeout, follow_redirects=False)
        self._next: dict[str, tuple[float, float]] = {}

    def once(self) -> list[Delivery]:
        """Deliver to those whose waiting time is over; return what became of it."""
        found = []
        for hook in self._hooks:
            due, wait = self._next.get(hook.name, (0.0, _FIRST_WAIT))
            if time.monotonic() < due:
                continue
            try:
                delivery = deliver(self._models, hook, self._send)
            except AdinError as error:  # the registry's own store does not answer
                log.warning("webhook %s waits: %s", hook.name, error)
                delivery = Delivery(hook.name, {}, failure=str(error))
            self._next.pop(hook.name, None)
            if delivery.failure:
                pause = wait * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                self._next[hook.name] = (time.monotonic() + pause, min(_LONGEST_WAIT, wait * 2))
            found.append(delivery)
        return found

    def follow(self, stop: threading.Event) -> None:
        """Deliver until told to stop."""
        while not stop.wait(settings().webhook_pause):
            self.once()

    def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        answer = self._http.post(url, content=body, headers=dict(headers))
        if not answer.is_success:
            raise ConfigError(f"{url} answered {answer.status_code}: {answer.text[:200]}")


def signed(key: str, event: str, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery: id, time, and the HMAC-SHA256 of time and body."""
    now = str(int(time.time()))
    return {ID: event, TIME: now, SIGNATURE: f"v1={_hmac(key, now, body)}", "Content-Type": "application/json"}


def verify(key: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = 300) -> dict[str, Any]:
    """Return the event of a delivery; for receivers.

    :param headers: of the request, by any case.
    :param tolerance: seconds by which its time may differ from ours.
    :raises SignInError: the signature is missing, wrong or too old.
    """
    given = {name.lower(): value for name, value in headers.items()}
    sent, signature = given.get(TIME.lower(), ""), given.get(SIGNATURE.lower(), "")
    if not hmac.compare_digest(signature, f"v1={_hmac(key, sent, body)}"):
        raise SignInError("The signature of the event is missing or wrong.")
    if not sent.isdecimal() or abs(datetime.now(UTC).timestamp() - int(sent)) > tolerance:
        raise SignInError(f"The event was sent more than {timedelta(seconds=tolerance)} ago.")
    return dict(json.loads(body))


def _hmac(key: str, sent: str, body: bytes) -> str:
    return hmac.new(key.encode(), f"{sent}.".encode() + body, hashlib.sha256).hexdigest()


def _body(entry: Entry) -> bytes:
    facts = entry.model_dump(mode="json", exclude={"previous", "hash"})
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def _models(models: Registry, webhook: Webhook) -> list[str]:
    return named(Query(webhook.models), models.models())


def _taken(models: Registry, webhook: Webhook) -> tuple[dict[str, int], str | None]:
    """Return how far a webhook is; one that is new begins with what happens from now on."""
    noted = models.store.note(f"events/{webhook.name}")
    if noted:
        return json.loads(noted[0]), noted[1]
    _note(models, webhook, {name: models.state(name).seq for name in _models(models, webhook)}, None)
    return _taken(models, webhook)


def _note(models: Registry, webhook: Webhook, taken: Mapping[str, int], tag: str | None) -> None:
    # where another deliverer was faster, its note stays; what differs is sent again
    models.store.swap(f"events/{webhook.name}", json.dumps(dict(taken), sort_keys=True).encode(), tag)
