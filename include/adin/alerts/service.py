"""The alert service: ``python -m adin.alerts.service``.

It looks at its sources, enters what they found in the book, and tells Alertmanager what is due. The book is written
before anything is told, so that a service that was killed goes on where it was; what it tells twice is the same alert,
which Alertmanager knows. While the registry is away it goes on from memory, and writes the book when it can. It also
sends webhooks and Airflow the events of models, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from adin.alerts import book
from adin.alerts.alert import Found, Source
from adin.alerts.alertmanager import Alertmanager
from adin.alerts.book import Book, Standing
from adin.alerts.facts import Facts
from adin.connections import declared
from adin.errors import AdinError
from adin.models import Registry, events
from adin.models.store import Store
from adin.settings import settings

log = logging.getLogger("adin.alerts")

#: Seconds a round waits for the sources it looks at; what takes longer is entered in a later one.
_PATIENCE = 1.0
#: Seconds between two notes of the status.
_NOTE_PAUSE = 15.0
#: Seconds without a round after which the service says that it is ill.
_ILL = 120.0

_UP = Gauge("adin_alerts", "Alerts in the book", ["alertname", "severity"])
_WAITING = Gauge("adin_alerts_undelivered", "Alerts that Alertmanager has not taken yet")
_DELIVERED = Counter("adin_alerts_delivered", "Alerts that Alertmanager took for the first time", ["alertname"])
_FAILED = Counter("adin_alert_delivery_failures", "Times Alertmanager did not answer")
_BLIND = Counter("adin_alert_source_errors", "Times a source could not be read", ["source"])
_SECONDS = Histogram("adin_alert_source_seconds", "Time to look at a source", ["source"])
_LOOKED = Gauge("adin_alert_source_last_success_timestamp_seconds", "When a source was last read", ["source"])
_SENT = Counter("adin_webhook_sent", "Events of models that a webhook took", ["webhook"])
_UNSENT = Counter("adin_webhook_failures", "Times a webhook did not take an event", ["webhook"])


class AlertService:
    """Rounds of looking and telling.

    :param store: where the book lies.
    :param looked_at: the sources.
    :param alertmanager: who is told.
    :param alone: sources that need no registry; only they are looked at until the book could be read.
    :param status: returns how everything is, which is written down beside the book for the status page.
    """

    def __init__(
        self,
        store: Store,
        looked_at: list[Source],
        alertmanager: Alertmanager,
        *,
        alone: frozenset[str] = frozenset({"stack"}),
        status: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._store, self._sources, self._alertmanager, self._alone = store, looked_at, alertmanager, alone
        self._book, self._tag, self._loaded = Book(), None, False  # type: tuple[Book, str | None, bool]
        self._written = ""
        self._status, self._noted = status, float("-inf")
        self._next: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(max(1, len(looked_at)), "look")
        self._looks: dict[str, Future[Found]] = {}
        self._told: dict[str, tuple[float, bool]] = {}
        self.last_round = time.monotonic()

    def round(self) -> None:
        """Look at the sources whose time has come, write the book, tell what is due."""
        self._load()
        self._look()
        self._save()
        if self._tell():
            self._save()
        self._count()
        self._note_status()
        self.last_round = time.monotonic()

    def follow(self, stop: threading.Event) -> None:
        """Go round until told to stop."""
        while not stop.wait(settings().alert_pause):
            try:
                self.round()
            except Exception:  # whatever is wrong, the next round may be better
                log.exception("a round failed")

    def _load(self) -> None:
        if self._loaded:
            return
        try:
            found, self._tag = book.load(self._store)
        except AdinError as error:
            log.warning("the book cannot be read yet: %s", error)
            return
        found.alerts |= self._book.alerts
        found.positions |= self._book.positions
        self._book, self._loaded = found, True

    def _look(self) -> None:
        """Enter what the sources have found; one that takes long is waited for by nobody."""
        for source in self._sources:
            ready = self._loaded or source.name in self._alone
            if ready and source.name not in self._looks and time.monotonic() >= self._next.get(source.name, 0):
                self._next[source.name] = time.monotonic() + source.pause
                position = self._book.positions.get(source.name)
                self._looks[source.name] = self._pool.submit(_looked, source, position)
        wait(self._looks.values(), timeout=_PATIENCE)
        for name in [name for name, look in self._looks.items() if look.done()]:
            self._take(name, self._looks.pop(name))

    def _take(self, name: str, look: Future[Found]) -> None:
        try:
            found = look.result()
        except Exception as error:  # nothing is known: its alerts stay as they were
            _BLIND.labels(name).inc()
            log.warning("source %s cannot be read: %s", name, error)
            return
        self._book.take(name, found, datetime.now(UTC))
        _LOOKED.labels(name).set_to_current_time()

    def _save(self) -> None:
        content = self._book.model_dump_json()
        if not self._loaded or content == self._written:
            return
        try:
            mine, tag = book.save(self._store, self._book, self._tag)
        except AdinError as error:
            log.warning("the book is written later: %s", error)
            return
        if mine:
            self._tag, self._written = tag, content
        else:  # another alert service was faster: its book counts, and the sources tell the rest again
            log.warning("another alert service writes the book too")
            self._book, self._tag = book.load(self._store)
            self._written = self._book.model_dump_json()
            self._looks.clear()  # they began where this service's own book was

    def _tell(self) -> bool:
        """Send what is due; return whether the book changed."""
        now, clock = datetime.now(UTC), time.monotonic()
        firing = {key: each.firing(now, settings().alert_hold) for key, each in self._book.alerts.items()}
        due = {key: each for key, each in self._book.alerts.items() if self._due(key, firing[key], clock)}
        if not due:
            return False
        later = now + timedelta(seconds=settings().alert_ttl)
        try:
            taken = self._alertmanager.post({key: _wire(each, now, later, firing[key]) for key, each in due.items()})
        except AdinError as error:
            _FAILED.inc()
            log.warning("alerts wait: %s", error)
            return False
        for key in taken:
            self._taken(key, due[key], firing[key], now, clock)
        return bool(taken)

    def _due(self, key: str, firing: bool, clock: float) -> bool:
        at, told = self._told.get(key, (0.0, not firing))
        return told != firing or clock - at >= settings().alert_resend

    def _taken(self, key: str, standing: Standing, firing: bool, now: datetime, clock: float) -> None:
        self._told[key] = (clock, firing)
        fields = {"happened": "alert", **_identity(standing)}
        if not firing:
            log.info("over: %s: %s", standing.alert.name, standing.alert.summary, extra=fields)
            del self._book.alerts[key], self._told[key]
        elif standing.delivered is None:
            log.warning("alert: %s: %s", standing.alert.name, standing.alert.summary, extra=fields)
            _DELIVERED.labels(standing.alert.name).inc()
            standing.delivered = now

    def _note_status(self) -> None:
        if self._status and self._loaded and time.monotonic() - self._noted > _NOTE_PAUSE:
            try:
                book.save_status(self._store, self._status())
                self._noted = time.monotonic()
            except AdinError as error:
                log.warning("the status is written later: %s", error)

    def _count(self) -> None:
        _UP.clear()
        for standing in self._book.alerts.values():
            _UP.labels(standing.alert.name, standing.alert.severity).inc()
        _WAITING.set(sum(standing.delivered is None for standing in self._book.alerts.values()))


def _looked(source: Source, position: Any) -> Found:
    with _SECONDS.labels(source.name).time():
        return source.look(position, datetime.now(UTC))


def _wire(standing: Standing, now: datetime, later: datetime, firing: bool) -> dict[str, Any]:
    return standing.alert.wire(later if firing else now)


def _identity(standing: Standing) -> dict[str, str]:
    labels = standing.alert.labels
    return {name: labels[name] for name in ("problem", "model", "version", "dag", "task") if name in labels}


def deliver(models: Registry, stop: threading.Event) -> None:
    """Tell webhooks and Airflow what happens to models, until told to stop; whatever is wrong, alerts go on."""
    deliverer = None
    while not stop.wait(settings().webhook_pause):
        try:
            deliverer = deliverer or events.Deliverer(models, events.receivers())
            for done in deliverer.once():
                _SENT.labels(done.webhook).inc(done.sent)
                _UNSENT.labels(done.webhook).inc(bool(done.failure))
        except Exception:
            log.exception("nobody is told the events of models")


def application(service: AlertService, facts: Facts, models: Registry) -> Any:
    """Return the web application: ``/metrics``, ``/healthz`` and ``/status``, open as every process's metrics are.

    :param facts: gauges that are read only now and then, and the status.
    :param models: whose events webhooks and Airflow are told.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def metrics(_: Any) -> Response:
        await run_in_threadpool(facts.refresh)
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Any) -> Response:
        ill = time.monotonic() - service.last_round > _ILL
        return PlainTextResponse("no round for two minutes\n" if ill else "ok\n", 503 if ill else 200)

    async def status(_: Any) -> Response:
        return JSONResponse(await run_in_threadpool(facts.status))

    @contextlib.asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        stop = threading.Event()
        work = [threading.Thread(target=service.follow, args=(stop,), name="rounds", daemon=True)]
        if settings().model_webhooks or declared("airflow"):
            work.append(threading.Thread(target=deliver, args=(models, stop), name="events", daemon=True))
        for each in work:
            each.start()
        yield
        stop.set()
        for each in work:
            await run_in_threadpool(each.join, 10)

    routes = [Route("/metrics", metrics), Route("/healthz", healthz), Route("/status", status)]
    return Starlette(routes=routes, lifespan=life)


def main() -> None:
    """Serve on the stack's port until told to stop."""
    import uvicorn

    from adin import logs
    from adin.alerts.sources import StackSource, sources
    from adin.models import registry
    from adin.stack import control
    from adin.stack.layout import HOST, home, port

    logs.set_up("alerts")
    models = registry()
    # elsewhere than in a stack there are no services to look after
    facts = Facts(models, control.status if (home() / "supervisord.conf").is_file() else list)
    looked_at = [*sources(models), StackSource(facts.health), facts]
    service = AlertService(models.store, looked_at, Alertmanager(), status=facts.status)
    uvicorn.run(application(service, facts, models), host=HOST, port=port("alerts"), log_config=None, access_log=False)


if __name__ == "__main__":
    main()
