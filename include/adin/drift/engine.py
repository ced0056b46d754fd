"""One check of a problem: count what is new, compare, judge, keep the report, write the alarms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from adin.connections import Connection
from adin.datasets.clickhouse import literal
from adin.drift import alarms, checks, histograms, references
from adin.drift.concept import Losses
from adin.drift.histograms import Days, day_after
from adin.drift.references import ROWS, Reference
from adin.drift.tables import CHECKS, Store, store
from adin.errors import DataError, NotFoundError
from adin.models.objects import Bucket
from adin.problem import Drift
from adin.run_key import content_hash

RESULT, REPORT, NEWEST = "result.json", "report.html", "newest.json"
_FORM = 1


@dataclass(frozen=True)
class Source:
    """What a check is about, found by :func:`adin.drift.service.source` or given by a test.

    :param learned: commit of the dataset the model learned from; its training split is the reference.
    :param commit: commit of the newest dataset, which is watched.
    :param until: day after the last one whose labels are all known.
    :param window: of the newest dataset.
    :param features: columns to watch; the label is watched besides.
    :param version: the champion; None before the first.
    """

    problem: str
    learned: str
    commit: str
    until: date
    label: str
    features: tuple[str, ...]
    policy: Drift
    window: str = ""
    version: int | None = None
    losses: Losses | None = None
    metric: str = ""
    metrics: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    :param result: the document that is kept.
    :param raised: alarms that were not active before.
    :param changed: all alarms that changed, resolved ones included.
    """

    result: dict[str, Any]
    raised: list[alarms.Alarm]
    changed: list[alarms.Alarm]

    def facts(self) -> dict[str, Any]:
        """Return what a task tells about the check."""
        result = self.result
        return {
            "problem": result["problem"],
            "check": result["id"],
            "dataset": result["dataset"],
            "window": result["window"],
            "until": result["until"],
            "active": result["alarms"],
            "raised": [[each.kind, each.subject, each.check] for each in self.raised],
            "resolved": [[a.kind, a.subject, a.check] for a in self.changed if a.state == "resolved"],
            "report": result["report"],
            "learnable": any(each.kind in checks.LEARNABLE for each in self.raised),
        }


def check(source: Source, bucket: Bucket, key: str, *, conn: Connection | None = None) -> Outcome:
    """Check a problem: the same data, model and policy give the same result, under the same id.

    :param bucket: where results and reports are kept, below ``drift/<problem>/<id>/``.
    :param key: run key.
    """
    with store(conn) as tables:
        reference, training, new = counted(tables, source, key)
        result = _result(source, reference, training, new)
        _keep(bucket, result)
        before = alarms.current(source.problem, conn=conn)
        findings = [checks.Finding(**each) for each in result["findings"]]
        changed = alarms.update(tables, source.problem, findings, result["report"])
        _remember(tables, result)
    return Outcome(result, alarms.new(changed, before), changed)


def counted(tables: Store, source: Source, key: str) -> tuple[Reference, dict[str, Days], dict[str, Days]]:
    """Return the reference and the days of the training and after it, counting only what was not counted before."""
    reference = references.freeze(tables, source.problem, source.learned, source.label, source.features, key)
    histograms.fill(tables, reference, "training", source.learned, key)
    histograms.fill(tables, reference, "new", source.commit, key)
    training = histograms.read(tables, reference, "training", source.learned)
    if ROWS not in training:
        raise DataError(f"{source.problem}: the reference {source.learned[:12]} was not counted.", "Run it again.")
    return reference, training, histograms.read(tables, reference, "new", source.commit)


def _result(source: Source, reference: Reference, training: dict[str, Days], new: dict[str, Days]) -> dict[str, Any]:
    policy = source.policy
    first = training[ROWS].days[0].astype(object)
    span = checks.Span(first, reference.last, max(source.until, day_after(reference.last)))
    findings = checks.run(policy, reference, span, training, new)
    findings += _concept(source, span)
    identity = content_hash(
        {
            "form": _FORM,
            "reference": reference.id,
            "commit": source.commit,
            "until": source.until,
            "policy": policy.model_dump(mode="json"),
            "versions": source.losses.versions if source.losses else (),
        }
    )[:16]
    active = [each for each in findings if each.active]
    since = min((date.fromisoformat(each.since) for each in active if each.since), default=None)
    after = since or span.until - timedelta(days=policy.window.days * policy.windows)
    recent = {name: days.between(after, span.until) for name, days in new.items()}
    return {
        "problem": source.problem,
        "id": identity,
        "report": f"/adin/drift/{source.problem}/report?check={identity}",
        "reference": {
            "id": reference.id,
            "commit": reference.commit,
            "version": source.version,
            "first": str(span.first),
            "last": str(span.last),
            "rows": reference.rows,
        },
        "dataset": source.commit,
        "window": source.window,
        "until": str(span.until),
        "policy": policy.model_dump(mode="json"),
        "needed": checks.needed(policy.windows),
        "days": policy.window.days,
        "alarms": [[each.kind, each.subject, each.check] for each in active],
        "since": None if since is None else str(since),
        "compared_from": str(after),
        "findings": [asdict(each) for each in findings],
        "features": checks.compared(
            reference, training, {name: days for name, days in recent.items() if len(days.days)}
        ),
        "model": _model(source),
    }


def _concept(source: Source, span: checks.Span) -> list[checks.Finding]:
    """Return the finding on the champion's loss; its reference are the days by which it was judged."""
    found = source.losses
    if found is None or not len(found.judged["day"]) or not len(found.later["day"]):
        return []
    days = found.judged["day"]
    own = checks.Span(days[0].astype(object), days[-1].astype(object), span.until)
    return checks.losses(source.policy, found.judged, found.later, own)


def _model(source: Source) -> dict[str, Any]:
    told: dict[str, Any] = {"champion": source.version, "metric": source.metric, "metrics": source.metrics or {}}
    if source.losses:
        told["versions"] = list(source.losses.versions)
        for name in ("judged", "later", "challenger"):
            days = getattr(source.losses, name)
            means = np.round(days["loss"] / days["rows"], 6).tolist() if len(days["day"]) else []
            told[name] = {"day": [str(day) for day in days["day"]], "loss": means}
    return told


# --- what is kept


def _keep(bucket: Bucket, result: dict[str, Any]) -> None:
    """Write the report, then the result which makes it a check; a second write of the same changes nothing."""
    from adin.drift import report

    place = f"drift/{result['problem']}/{result['id']}"
    bucket.put(f"{place}/{REPORT}", report.page(result).encode())
    bucket.put(f"{place}/{RESULT}", json.dumps(result).encode())
    brief = {name: result[name] for name in ("id", "dataset", "until", "alarms", "since", "report")}
    bucket.put(f"drift/{result['problem']}/{NEWEST}", json.dumps(brief).encode())


def _remember(tables: Store, result: dict[str, Any]) -> None:
    """Note the check unless the newest is the same."""
    newest = history(tables, result["problem"], 1)
    if newest and newest[0]["id"] == result["id"]:
        return
    texts = ", ".join(
        map(literal, (result["problem"], result["id"], result["reference"]["id"], result["dataset"], result["until"]))
    )
    tables.client.command(
        f"INSERT INTO {tables.table(CHECKS)} VALUES ({texts}, {len(result['alarms'])}, now64(6, 'UTC'))"
    )


def history(tables: Store, problem: str, limit: int = 50) -> list[dict[str, Any]]:
    """Return the checks of a problem, newest first."""
    names = ("id", "reference", "commit", "until", "active", "checked")
    rows = tables.rows(
        f"SELECT id, reference, commit, toString(until), active, toString(checked) FROM {tables.table(CHECKS)} "
        f"WHERE problem = {literal(problem)} ORDER BY checked DESC LIMIT {limit}"
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def result(bucket: Bucket, problem: str, check: str) -> dict[str, Any]:
    """Return a kept result; :raises NotFoundError: there is none."""
    return dict(json.loads(_kept(bucket, problem, check, RESULT)))


def kept_report(bucket: Bucket, problem: str, check: str) -> bytes:
    """Return a kept report; :raises NotFoundError: there is none."""
    return _kept(bucket, problem, check, REPORT)


def newest(bucket: Bucket, problem: str) -> dict[str, Any] | None:
    """Return what the newest check found, in brief; None if there was none. It needs the object store alone."""
    try:
        return dict(json.loads(bucket.get(f"drift/{problem}/{NEWEST}")))
    except NotFoundError:
        return None


def _kept(bucket: Bucket, problem: str, check: str, name: str) -> bytes:
    if not check.isalnum():
        raise NotFoundError(f"No check {check!r} of {problem}.")
    try:
        return bucket.get(f"drift/{problem}/{check}/{name}")
    except NotFoundError:
        raise NotFoundError(f"No check {check!r} of {problem}.", f"See `adin drift status {problem}`.") from None


def between(source: Source, first: date, after: date, key: str, *, conn: Connection | None = None) -> dict[str, Any]:
    """Return how the days of an event differ from as many days before it, by counts already made.

    :raises DataError: there are no rows on one of the sides.
    """
    with store(conn) as tables:
        reference, training, new = counted(tables, source, key)
    days = histograms.joined(training, new)
    start = first - (after - first)
    sides = [{name: each.between(*span) for name, each in days.items()} for span in ((start, first), (first, after))]
    for side, (low, high) in zip(sides, ((start, first), (first, after)), strict=True):
        if not side[ROWS].counts.sum():
            raise DataError(
                f"{source.problem} has no rows from {low} to before {high}.",
                f"The dataset has {days[ROWS].days[0]} .. {days[ROWS].days[-1]}: choose --from and --to in it.",
            )
    before, during = sides
    return {
        "problem": source.problem,
        "before": [str(start), str(first)],
        "after": [str(first), str(after)],
        "dataset": source.commit,
        "rows": [_rows(before), _rows(during)],
        "features": checks.compared(reference, before, during),
        "daily": _daily(reference, training, days, start, after),
        "label": source.label,
        "model": _model(source),
    }


def _rows(side: dict[str, Days]) -> int:
    return int(side[ROWS].counts.sum())


def _daily(
    reference: Reference, training: dict[str, Days], days: dict[str, Days], first: date, after: date
) -> dict[str, Any]:
    """Return the PSI of each feature by day against the training, for timelines."""
    from adin.drift import statistics

    told = {}
    for feature in reference.features:
        if feature.name in training:
            shown = days[feature.name].between(first, after)
            values = statistics.psi(training[feature.name].total[1:], shown.counts[:, 1:])
            told[feature.name] = {
                "day": [str(day) for day in shown.days],
                "psi": [round(float(value), 6) if np.isfinite(value) else None for value in np.atleast_1d(values)],
            }
    return told


def summary(found: Sequence[alarms.Alarm]) -> dict[str, int]:
    """Return the number of active alarms by kind."""
    kinds: dict[str, int] = {"data": 0, "label": 0, "concept": 0, "quality": 0}
    for alarm in found:
        kinds[alarm.kind] += alarm.state == "active"
    return kinds
