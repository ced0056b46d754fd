"""What an alert is, and what a source of alerts must answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from adin.run_key import content_hash
from adin.settings import settings

Severity = Literal["critical", "warning", "info"]


class Alert(BaseModel):
    """Something a person should know.

    :param name: what kind it is; the heading of its runbook.
    :param labels: what it is about. Name and labels are the alert's identity: never a value that changes.
    :param summary: one line, with the values; :param detail: more of it.
    :param links: addresses by what is there: ``report``, ``page``; one that begins with ``/`` is below Airflow's.
    :param since: when it began.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^Adin[A-Za-z]+$")
    severity: Severity
    labels: dict[str, str] = Field(default_factory=dict)
    summary: str
    detail: str = ""
    links: dict[str, str] = Field(default_factory=dict)
    since: datetime

    @property
    def key(self) -> str:
        """Return the alert's identity as a short text."""
        return content_hash({"alertname": self.name, **self.labels})[:24]

    def wire(self, ends: datetime) -> dict[str, Any]:
        """Return the alert as Alertmanager's API v2 takes it.

        :param ends: when it is over, or is to be taken for over unless it is told again.
        """
        annotations = {"summary": self.summary, "runbook": f"{settings().runbook_url}#{self.name.lower()}"}
        annotations |= {"detail": self.detail} if self.detail else {}
        links = {name: absolute(link) for name, link in self.links.items()}
        told = {
            "labels": {"alertname": self.name, "severity": self.severity, **self.labels},
            "annotations": annotations | links,
            "startsAt": _text(self.since),
            "endsAt": _text(ends),
        }
        return told | ({"generatorURL": links["page"]} if "page" in links else {})


@dataclass
class Found:
    """What a source found.

    :param up: every alert of the source that is up now; those it leaves out are over.
    :param happened: alerts about events behind ``position``; they go down by themselves.
    :param position: how far the source has read, as JSON; it is given back at the next look.
    """

    up: list[Alert] = field(default_factory=list)
    happened: list[Alert] = field(default_factory=list)
    position: Any = None


class Source(Protocol):
    """Says what is wrong. While it raises, nothing is known: its alerts stay as they were.

    :ivar name: its place in the book.
    """

    name: str

    @property
    def pause(self) -> float:
        """Return the seconds between two looks; 0 for one in each round."""

    def look(self, position: Any, now: datetime) -> Found:
        """Return what is up and what has happened.

        :param position: what the last look returned; None at the very first.
        """


def fits(alert: Alert, match: Mapping[str, list[str]]) -> bool:
    """Tell whether each label named has one of the values named."""
    return all(alert.labels.get(name) in values for name, values in match.items())


def absolute(link: str) -> str:
    """Return a link as people can follow it."""
    return f"{settings().ui_url or _stack()}{link}" if link.startswith("/") else link


def _stack() -> str:
    from adin.stack.layout import HOST, port

    return f"http://{HOST}:{port('airflow')}"


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
