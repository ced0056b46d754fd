"""Drift of a problem of this stack: its champion, its newest dataset, its stores, by the connections in force."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from pydantic import ValidationError

from adin import datasets
from adin.datasets.lake import Lake
from adin.drift import engine
from adin.drift.alarms import Alarm, active
from adin.drift.checks import LEARNABLE
from adin.drift.concept import losses
from adin.drift.engine import Outcome, Source
from adin.drift.tables import store
from adin.errors import ConfigError, NotFoundError
from adin.models import ModelVersion, Registry, registry
from adin.problem import Drift, Problem, problem
from adin.run_key import content_hash, run_key
from adin.window import Window


def check(name: str, key: str = "", *, policy: Drift | None = None) -> Outcome:
    """Check a problem's newest dataset version against what its champion learned from.

    :param key: run key; default one of the problem and its data.
    :param policy: instead of the problem's own.
    :raises NotFoundError: there is no dataset version yet.
    """
    models = registry()
    found = source(name, models, policy=policy)
    return engine.check(found, models.bucket, key or _key(found))


def source(name: str, models: Registry, *, policy: Drift | None = None) -> Source:
    """Find what a check of a problem is about, and see that its rows are in ClickHouse.

    Before there is a champion, or where its dataset has gone, the newest dataset's own training split is the
    reference.
    """
    spec, lake = problem(name), Lake()
    newest = datasets.newest(name, lake=lake)
    champion = models.champion(name)
    learned = _learned(name, champion, lake) or newest
    for commit in dict.fromkeys([learned.commit, newest.commit]):
        datasets.load_clickhouse(name, commit, run_key("drift", commit, "load"), lake=lake)
    features = champion.manifest.features if champion and learned.commit == champion.manifest.dataset else None
    return Source(
        problem=name,
        learned=learned.commit,
        commit=newest.commit,
        until=_complete(spec, newest.window.end),
        window=str(newest.window),
        label=spec.label.column,
        features=tuple(features or newest.manifest["features"]),
        policy=policy or spec.drift,
        version=champion.number if champion else None,
        losses=losses(models, champion, spec.promotion.primary) if champion else None,
        metric=spec.promotion.primary,
        metrics=dict(champion.manifest.metrics.get("test", {}).get("all", {})) if champion else None,
    )


def policy(spec: Problem, window: str | None) -> Drift:
    """Return the policy of a problem, with windows of another length if one is given.

    :raises ConfigError: they are not of whole days.
    """
    if not window:
        return spec.drift
    try:
        return Drift(**(spec.drift.model_dump() | {"window": window}))
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"Window {window!r}: {told}.", "Write whole days, such as 1d or 1w.") from None


def no_training(spec: Problem, found: Mapping[str, Any], *, scheduled: bool) -> str:
    """Return why drift asks for no training; empty if it does.

    A new alarm asks at once; one that goes on asks again in each daily check, when there may be new data. Training
    itself refuses what was trained on already.

    :param found: as :meth:`Outcome.facts` gives it.
    """
    if not spec.run.on_drift:
        return "run.on_drift is not set in problem.yaml."
    asking = found["active"] if scheduled else found["raised"]
    if not any(kind in LEARNABLE for kind, *_ in asking):
        return "No new drift of data, label or loss."
    return ""


def asked_window(found: Mapping[str, Any], end: datetime | None) -> str:
    """Return the window of the training that drift asks for: the dataset's, up to the end of the check's own day."""
    known = Window.from_text(found["window"])
    return str(Window(known.start, max(known.end, end) if end else known.end))


def between(name: str, first: date, after: date) -> dict[str, Any]:
    """Return how the days of an event differ from as many days before it."""
    found = source(name, registry())
    return engine.between(found, first, after, _key(found))


def history(name: str, limit: int = 50) -> list[dict[str, Any]]:
    """Return the checks of a problem, newest first."""
    problem(name)
    with store() as tables:
        return engine.history(tables, name, limit)


def result(models: Registry, name: str, check: str = "") -> dict[str, Any] | None:
    """Return a check's result, by default that of the newest; None if there was no check yet."""
    check = check or next((each["id"] for each in history(name, 1)), "")
    return engine.result(models.bucket, name, check) if check else None


def status(name: str) -> list[Alarm]:
    """Return the alarms of a problem that go on; :raises NotFoundError: there is no such problem."""
    problem(name)
    return active(name)


def _learned(name: str, champion: ModelVersion | None, lake: Lake) -> datasets.DatasetVersion | None:
    if champion is None:
        return None
    try:
        found = datasets.version(name, champion.manifest.dataset, lake=lake)
    except NotFoundError:
        return None
    return None if found.commit in lake.expired() else found


def _complete(spec: Problem, end: datetime) -> date:
    """Return the day after the last whose rows all have their labels: later ones are not missing, only not due."""
    return (end - spec.label.known_after - spec.predict_before).astimezone(UTC).date()


def _key(found: Source) -> str:
    return run_key("drift", content_hash({"learned": found.learned, "commit": found.commit}), found.problem)
