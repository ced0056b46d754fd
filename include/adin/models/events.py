"""What happens to models, told to others over HTTP: webhooks, and Airflow's assets.

The log itself is the outbox: who changes a model writes its log and nothing else, and never waits for a receiver. A
deliverer, a process of its own, sends each receiver the entries behind the last one it took, in order of each log, and
notes how far it is. What was sent but not yet noted is sent again: a webhook tells repetitions by the event's id, and
Airflow is asked whether it has the event.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from adin.connections import connection, declared
from adin.errors import AdinError, ConfigError, SignInError
from adin.models.log import EVENTS, Entry
from adin.models.registry import Registry
from adin.models.search import Query, named
from adin.settings import settings

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

ID, TIME, SIGNATURE = "X-Adin-Event-Id", "X-Adin-Timestamp", "X-Adin-Signature"
#: Seconds before the second try, and the most between two.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0


class Receiver(Protocol):
    """Somebody who is told what happens to models."""

    @property
    def name(self) -> str:
        """Return the name under which it is noted how far it is."""

    @property
    def models(self) -> str:
        """Return the names it is told about, with ``*`` for any letters."""

    def wants(self, entry: Entry, before: Entry | None) -> bool:
        """Tell whether it is told of an entry, given the one before."""

    def take(self, entry: Entry, before: Entry | None, http: httpx.Client) -> None:
        """Tell it; raises if it did not take the entry."""


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

    def wants(self, entry: Entry, before: Entry | None) -> bool:
        """Tell whether it asked for events of this kind."""
        return entry.event in self.events

    def take(self, entry: Entry, before: Entry | None, http: httpx.Client) -> None:
        """Post the entry, signed."""
        body = _body(entry)
        answer = http.post(self.url, content=body, headers=signed(self.key, entry.id, body))
        if not answer.is_success:
            raise ConfigError(f"{self.url} answered {answer.status_code}: {answer.text[:200]}")


@dataclass
class Delivery:
    """How far a receiver is.

    :param taken: number of the last entry taken, by model.
    :param behind: entries still to be sent.
    :param failure: why the last try failed, empty if it did not.
    """

    webhook: str
    taken: dict[str, int]
    behind: int = 0
    sent: int = 0
    failure: str = ""


def receivers() -> list[Receiver]:
    """Return all there are: the webhooks of the settings, and Airflow where the connection ``airflow`` is declared."""
    from adin.models.airflow_assets import AirflowAssets

    airflow = [AirflowAssets(connection("airflow"))] if declared("airflow") else []
    return [*map(Webhook.of, settings().model_webhooks), *airflow]


def status(models: Registry, receiver: Receiver) -> Delivery:
    """Return how far a receiver is; sends nothing."""
    taken, _ = _taken(models, receiver)
    found = Delivery(receiver.name, taken)
    for name in _models(models, receiver):
        entries = models.log(name)
        for place in range(taken.get(name, 0), len(entries)):
            found.behind += receiver.wants(entries[place], _before(entries, place))
    return found


def deliver(models: Registry, receiver: Receiver, http: httpx.Client) -> Delivery:
    """Send all that a receiver has not taken yet, until something fails."""
    taken, tag = _taken(models, receiver)
    found = Delivery(receiver.name, dict(taken))
    try:
        for name in _models(models, receiver):
            entries = models.log(name)
            for place in range(found.taken.get(name, 0), len(entries)):
                entry, before = entries[place], _before(entries, place)
                if receiver.wants(entry, before):
                    receiver.take(entry, before, http)
                    found.sent += 1
                found.taken[name] = entry.seq
    except Exception as error:
        found.failure = str(error) or type(error).__name__
        log.warning("%s is not told: %s", receiver.name, found.failure)
    if found.taken != taken:
        _note(models, receiver, found.taken, tag)
    return found


class Deliverer:
    """Delivers to all receivers again and again; one that fails waits longer each time, and holds up no other."""

    def __init__(self, models: Registry, told: Sequence[Receiver]) -> None:
        import httpx

        self._models, self._told = models, told
        timeout = httpx.Timeout(settings().read_timeout, connect=settings().connect_timeout)
        self._http = httpx.Client(timeout=timeout, follow_redirects=False)
        self._next: dict[str, tuple[float, float]] = {}

    def once(self) -> list[Delivery]:
        """Deliver to those whose waiting time is over; return what became of it."""
        found = []
        for receiver in self._told:
            due, wait = self._next.get(receiver.name, (0.0, _FIRST_WAIT))
            if time.monotonic() < due:
                continue
            try:
                delivery = deliver(self._models, receiver, self._http)
            except AdinError as error:  # the registry's own store does not answer
                log.warning("%s waits: %s", receiver.name, error)
                delivery = Delivery(receiver.name, {}, failure=str(error))
            self._next.pop(receiver.name, None)
            if delivery.failure:
                pause = wait * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                self._next[receiver.name] = (time.monotonic() + pause, min(_LONGEST_WAIT, wait * 2))
            found.append(delivery)
        return found

    def follow(self, stop: threading.Event) -> None:
        """Deliver until told to stop."""
        while not stop.wait(settings().webhook_pause):
            self.once()


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


def _before(entries: Sequence[Entry], place: int) -> Entry | None:
    return entries[place - 1] if place else None


def _models(models: Registry, receiver: Receiver) -> list[str]:
    return named(Query(receiver.models), models.models())


def _taken(models: Registry, receiver: Receiver) -> tuple[dict[str, int], str | None]:
    """Return how far a receiver is; one that is new begins with what happens from now on."""
    noted = models.store.note(f"events/{receiver.name}")
    if noted:
        return json.loads(noted[0]), noted[1]
    _note(models, receiver, {name: models.state(name).seq for name in _models(models, receiver)}, None)
    return _taken(models, receiver)


def _note(models: Registry, receiver: Receiver, taken: Mapping[str, int], tag: str | None) -> None:
    # where another deliverer was faster, its note stays; what differs is sent again
    models.store.swap(f"events/{receiver.name}", json.dumps(dict(taken), sort_keys=True).encode(), tag)
