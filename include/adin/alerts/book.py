"""The book of alerts: which are up, which of them were delivered, and how far each source has read.

All of it is one note in AMVersion's store, written in one step: an alert and the place behind it can never come apart.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field

from adin.alerts.alert import Alert, Found
from adin.models.store import Store

_NOTE = "alerts/book"
_STATUS = "alerts/status"


class Standing(BaseModel):
    """An alert in the book.

    :param over: when it ended; an event is over as soon as it has happened.
    :param delivered: when Alertmanager first took it; None until then.
    """

    alert: Alert
    source: str
    over: datetime | None = None
    delivered: datetime | None = None

    def firing(self, now: datetime, hold: float) -> bool:
        """Tell whether it is to be told as being up.

        What was over before it could be told is told none the less, and stays up long enough for Alertmanager to
        pass it on: it drops what is over before its group is due.

        :param hold: seconds for which what is over stays up behind its delivery.
        """
        return self.over is None or self.delivered is None or now < self.delivered + timedelta(seconds=hold)


class Book(BaseModel):
    """All alerts by their identity, and the positions of the sources."""

    alerts: dict[str, Standing] = Field(default_factory=dict)
    positions: dict[str, Any] = Field(default_factory=dict)

    def take(self, source: str, found: Found, now: datetime) -> None:
        """Enter what a source found."""
        for alert in found.happened:
            self.alerts.setdefault(alert.key, Standing(alert=alert, source=source, over=now))
        up = {alert.key: alert for alert in found.up}
        for key, alert in up.items():
            known = self.alerts.get(key)
            since = known.alert.since if known else alert.since
            told = alert.model_copy(update={"since": since})
            delivered = known.delivered if known else None
            self.alerts[key] = Standing(alert=told, source=source, delivered=delivered)
        happened = {alert.key for alert in found.happened}
        for key, standing in self.alerts.items():
            if standing.source == source and standing.over is None and key not in up and key not in happened:
                standing.over = now
        self.positions[source] = found.position


def load(store: Store) -> tuple[Book, str | None]:
    """Return the book and the tag of its content; an empty one if there is none yet."""
    noted = store.note(_NOTE)
    return (Book.model_validate_json(noted[0]), noted[1]) if noted else (Book(), None)


def save(store: Store, book: Book, tag: str | None) -> tuple[bool, str | None]:
    """Write the book if nobody else did; return whether it is written, and its tag."""
    content = book.model_dump_json().encode()
    written = store.swap(_NOTE, content, tag)
    noted = store.note(_NOTE)
    # a write whose answer got lost is a write
    return written or bool(noted and noted[0] == content), noted[1] if noted else None


def status(store: Store) -> dict[str, Any] | None:
    """Return how everything was when the alert service last wrote it down; None if it never did."""
    noted = store.note(_STATUS)
    return dict(json.loads(noted[0])) if noted else None


def save_status(store: Store, found: dict[str, Any]) -> None:
    """Write down how everything is."""
    noted = store.note(_STATUS)
    store.swap(_STATUS, json.dumps(found).encode(), noted[1] if noted else None)
