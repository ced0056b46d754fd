"""What can be asked of the versions of all models, and the answer by looking at each; a database answers by index."""

from __future__ import annotations

import base64
import binascii
import heapq
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from adin.errors import ConfigError
from adin.models.log import VersionState
from adin.models.manifest import ModelManifest

_LONGEST_PAGE = 1000


@dataclass(frozen=True)
class Query:
    """What is asked for; a version must fit all of it.

    :param model: name, with ``*`` for any letters.
    :param tags: value of each tag.
    :param metrics: inclusive range of each metric, ``{"auc": (0.71, None)}``; a metric that is missing does not fit.
    :param split: split and :param slice_: slice of the metrics, also of that in ``order``.
    :param dataset: commit id, may be shortened.
    :param feature: column the model takes.
    :param state: state the version is in now.
    :param since: first instant it may have been made at; :param until: first instant it may not.
    :param order: ``model`` (then number), ``created`` or a metric's name, with ``-`` before it from the greatest down;
        versions without that metric are left out.
    :param limit: versions on a page, at most 1000.
    :param after: :attr:`Page.next` of the page before.
    :raises ConfigError: a field is wrong.
    """

    model: str = "*"
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    split: str = "test"
    slice_: str = "all"
    dataset: str = ""
    feature: str = ""
    state: VersionState | None = None
    owner: str = ""
    since: datetime | None = None
    until: datetime | None = None
    order: str = "model"
    limit: int = 50
    after: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= _LONGEST_PAGE:
            raise ConfigError(f"A page of {self.limit} versions is not possible.", f"Ask for 1 to {_LONGEST_PAGE}.")
        if any(each is not None and each.tzinfo is None for each in (self.since, self.until)):
            raise ConfigError("A time without a zone.", "Write it as 2013-06-01T00:00:00Z.")
        self.place()

    @property
    def descending(self) -> bool:
        """Return whether the greatest comes first."""
        return self.order.startswith("-")

    @property
    def key(self) -> str:
        """Return what is sorted by: ``model``, ``created`` or a metric."""
        return self.order.removeprefix("-")

    def place(self) -> Hit | None:
        """Return the last version of the page before, None for the first page."""
        if not self.after:
            return None
        try:
            order, model, number, key = json.loads(base64.urlsafe_b64decode(self.after))
            if order != self.order:
                raise ValueError(order)
            return Hit(str(model), int(number), datetime.fromisoformat(key) if self.key == "created" else key)
        except (ValueError, TypeError, binascii.Error):
            raise ConfigError(
                "The page asked for does not belong to this search.", "Begin with its first page."
            ) from None

    def next(self, last: Hit) -> str:
        """Return the text that asks for the page behind a version."""
        key = last.key.isoformat() if isinstance(last.key, datetime) else last.key
        return base64.urlsafe_b64encode(json.dumps([self.order, last.model, last.number, key]).encode()).decode()


class Hit(NamedTuple):
    """A version found.

    :param key: value it is sorted by; None where that is its name.
    """

    model: str
    number: int
    key: datetime | float | None = None


class Facts(NamedTuple):
    """The little of a manifest that can be searched."""

    dataset: str
    owner: str
    created: datetime
    tags: Mapping[str, str]
    features: frozenset[str]
    metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]

    @classmethod
    def of(cls, manifest: ModelManifest) -> Facts:
        """Return what can be searched of a manifest."""
        features = frozenset(manifest.features)
        return cls(manifest.dataset, manifest.owner, manifest.created, manifest.tags, features, manifest.metrics)

    def document(self) -> list[Any]:
        """Return the facts as JSON has them."""
        return [
            self.dataset,
            self.owner,
            self.created.isoformat(),
            dict(self.tags),
            sorted(self.features),
            dict(self.metrics),
        ]

    @classmethod
    def read(cls, document: list[Any]) -> Facts:
        """Return facts from JSON."""
        dataset, owner, created, tags, features, metrics = document
        return cls(dataset, owner, datetime.fromisoformat(created), tags, frozenset(features), metrics)

    def metric(self, query: Query, name: str) -> float | None:
        """Return a metric on the split and slice asked for."""
        return self.metrics.get(query.split, {}).get(query.slice_, {}).get(name)


def pair(text: str, mark: str) -> tuple[str, str]:
    """Return name and value of such as ``team=risk``.

    :raises ConfigError: it is not of that form.
    """
    name, found, value = text.partition(mark)
    if not (name and found):
        raise ConfigError(f"{text!r} is not of the form NAME{mark}VALUE.")
    return name, value


def bounds(given: Iterable[str]) -> dict[str, tuple[float | None, float | None]]:
    """Return :attr:`Query.metrics` of such as ``auc>=0.71`` and ``log_loss<=0.5``.

    :raises ConfigError: one is not of that form.
    """
    found: dict[str, tuple[float | None, float | None]] = {}
    for text in given:
        mark = ">=" if ">=" in text else "<="
        name, value = pair(text, mark)
        try:
            limit = float(value)
        except ValueError:
            raise ConfigError(f"{value!r} in {text!r} is no number.", "Write such as 'auc>=0.71'.") from None
        low, high = found.get(name, (None, None))
        found[name] = (limit, high) if mark == ">=" else (low, limit)
    return found


def named(query: Query, models: Iterable[str]) -> list[str]:
    """Return the models whose names fit."""
    pattern = re.compile(".*".join(map(re.escape, query.model.split("*"))))
    return [model for model in models if pattern.fullmatch(model)]


def scan(query: Query, versions: Iterable[tuple[str, int, VersionState, Facts]]) -> list[Hit]:
    """Return a page of the versions that fit, and one more if there is another page."""
    before = query.place()
    hits = (
        Hit(model, number, key)
        for model, number, state, facts in versions
        if _fits(query, state, facts)
        for key in (_key(query, facts),)
        if query.key == "model" or key is not None
    )
    behind = (hit for hit in hits if before is None or _rank(query, hit) > _rank(query, before))
    return heapq.nsmallest(query.limit + 1, behind, key=lambda hit: _rank(query, hit))


def _key(query: Query, facts: Facts) -> datetime | float | None:
    if query.key == "model":
        return None
    return facts.created if query.key == "created" else facts.metric(query, query.key)


def _rank(query: Query, hit: Hit) -> tuple[Any, ...]:
    sign = -1 if query.descending else 1
    if hit.key is None:
        return (hit.model, sign * hit.number)
    value = (hit.key - datetime.min.replace(tzinfo=UTC)) if isinstance(hit.key, datetime) else hit.key
    return (sign * value, hit.model, hit.number)


def _fits(query: Query, state: VersionState, facts: Facts) -> bool:
    return (
        query.state in (None, state)
        and facts.dataset.startswith(query.dataset)
        and query.owner in ("", facts.owner)
        and (not query.feature or query.feature in facts.features)
        and (query.since is None or facts.created >= query.since)
        and (query.until is None or facts.created < query.until)
        and all(facts.tags.get(tag) == value for tag, value in query.tags.items())
        and all(_within(facts.metric(query, name), bounds) for name, bounds in query.metrics.items())
    )


def _within(value: float | None, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return value is not None and (low is None or value >= low) and (high is None or value <= high)
