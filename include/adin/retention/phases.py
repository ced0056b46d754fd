"""Plan, mark, delete."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from adin.errors import ConflictError
from adin.models.store import Store
from adin.settings import settings

log = logging.getLogger(__name__)

#: Things deleted at a time: each time it is looked again whether nothing refers to them.
_BATCH = 200
_TRIES = 10


@dataclass(frozen=True)
class Item:
    """A thing that nothing refers to.

    :param name: unique among the things of its collector, and the same at each look.
    :param why: what is known about it.
    :param bytes: what deleting it would free, 0 where that is not known.
    """

    name: str
    why: str
    bytes: int = 0


class Collector(Protocol):
    """Knows one kind of thing, such as artefacts of models, dataset versions or temporary tables."""

    name: str

    def garbage(self) -> list[Item]:
        """Return the things that nothing refers to now; those too young to be judged are not among them."""

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete things to which nothing refers at this very moment; return those that are gone, now or before."""


@dataclass(frozen=True)
class Planned:
    """What would become of a thing.

    :param step: ``mark``: it is new; ``wait``: its grace time runs; ``delete``: it is over.
    :param due: when it is over.
    """

    collector: str
    name: str
    why: str
    bytes: int
    step: Literal["mark", "wait", "delete"]
    due: datetime


def plan(store: Store, collectors: Sequence[Collector]) -> list[Planned]:
    """Return what :func:`collect` would do now; changes nothing."""
    now = _clock()
    return [each for c in collectors for each in _planned(c, c.garbage(), _marks(store, c)[0], now)]


def collect(store: Store, collectors: Sequence[Collector]) -> list[Planned]:
    """Mark what is new garbage, delete what was marked ``settings().retention_grace_days`` ago and still is garbage.

    What is referred to again loses its mark. Safe to run again, and beside another run.

    :returns: what was done: ``mark``, ``wait``, and ``delete`` for what is gone.
    """
    return [each for collector in collectors for each in _collect(store, collector)]


def _collect(store: Store, collector: Collector) -> list[Planned]:
    garbage, now = collector.garbage(), _clock()
    for _ in range(_TRIES):
        marks, tag = _marks(store, collector)
        kept = {item.name: marks.get(item.name, now) for item in garbage}
        if kept == marks or _keep(store, collector, kept, tag):
            break
    else:
        raise ConflictError(f"Others collect {collector.name} at the same time.", "Run it again.")
    planned = _planned(collector, garbage, marks, now)
    due = [each.name for each in planned if each.step == "delete"]
    gone: set[str] = set()
    for start in range(0, len(due), _BATCH):
        gone |= set(collector.delete(due[start : start + _BATCH]))
    for each in planned:
        if each.name in gone:
            log.info("deleted %s %s: %s", collector.name, each.name, each.why)
    # a mark of what is gone goes with the next run, which no longer finds it
    return [each for each in planned if each.step != "delete" or each.name in gone]


def _planned(
    collector: Collector, garbage: Sequence[Item], marks: Mapping[str, datetime], now: datetime
) -> list[Planned]:
    grace = timedelta(days=settings().retention_grace_days)
    found = []
    for item in garbage:
        marked = marks.get(item.name)
        due = (marked or now) + grace
        step: Literal["mark", "wait", "delete"] = "mark" if marked is None else "delete" if due <= now else "wait"
        found.append(Planned(collector.name, item.name, item.why, item.bytes, step, due))
    return found


def _marks(store: Store, collector: Collector) -> tuple[dict[str, datetime], str | None]:
    noted = store.note(f"retention/{collector.name}")
    if noted is None:
        return {}, None
    return {name: datetime.fromisoformat(time) for name, time in json.loads(noted[0]).items()}, noted[1]


def _keep(store: Store, collector: Collector, marks: Mapping[str, datetime], tag: str | None) -> bool:
    content = json.dumps({name: time.isoformat() for name, time in marks.items()}).encode()
    return store.swap(f"retention/{collector.name}", content, tag)


def _clock() -> datetime:
    return datetime.now(UTC)
