"""Whether a challenger may replace the champion: a decision with its reasons, from predictions alone.

The unit of evidence is the day, never the row: the flights of one day share weather and crowds, and a test that
takes them for independent is "sure" of differences which are only a bad week.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import numpy as np

from adin.errors import ConfigError
from adin.models.manifest import jsonable
from adin.problem import Guardrail, Promotion
from adin.promotion.metrics import ROWS, Array, auc_rows, metric
from adin.promotion.statistics import adjusted, by_day, gain_interval, worse_p
from adin.run_key import content_hash

Outcome = Literal["promoted", "held", "rejected", "invalid"]

__all__ = ["Check", "Decision", "Outcome", "by_day", "decide", "gain_interval", "validate"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    :param detail: numbers and limits, for people.
    :param otherwise: outcome if the check fails.
    """

    name: str
    ok: bool
    detail: str
    otherwise: Outcome


@dataclass(frozen=True)
class Decision:
    """What came out, and why.

    :param outcome: ``promoted``, ``held`` (not sure, or too little), ``rejected`` (worse, or out of bounds) or
        ``invalid`` (the evidence itself is broken).
    :param metrics: ``{"challenger": {..}, "champion": {..}, "baseline": {..}}``.
    :param gain: primary loss of the champion less that of the challenger; None for a first model.
    :param interval: confidence interval of the gain, days being the unit.
    """

    outcome: Outcome
    checks: tuple[Check, ...]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    gain: float | None = None
    interval: tuple[float, float] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Return one sentence for the log: what decided."""
        failed = [check for check in self.checks if not check.ok]
        return f"{self.outcome}: " + "; ".join(f"{check.name}: {check.detail}" for check in failed or self.checks[-1:])


def validate(policy: Promotion) -> None:
    """Check what the form of a policy cannot: that its metrics exist and can be compared.

    :raises ConfigError: names the metric and the known ones.
    """
    if policy.primary not in ROWS:
        raise ConfigError(
            f"promotion.primary is {policy.primary!r}, which cannot be compared by day.",
            f"Write one of {', '.join(ROWS)}; others can be bounded under promotion.absolute.",
        )
    for name in policy.absolute:
        metric(name)
    if wrong := [rail.metric for rail in policy.guardrails if rail.metric not in {*ROWS, "auc"}]:
        raise ConfigError(
            f"promotion.guardrails: {', '.join(wrong)} cannot be compared by day.",
            f"Write one of {', '.join([*ROWS, 'auc'])}.",
        )


def decide(
    policy: Promotion,
    *,
    label: Array,
    challenger: Array,
    champion: Array | None,
    days: Array,
    baseline: Array | float,
    slices: Mapping[str, Array] | None = None,
    champion_age: timedelta | None = None,
    uses: int = 0,
) -> Decision:
    """Decide from the predictions of both models for the same rows.

    A first model must keep the absolute bounds and beat the baseline. A later one must also be better than the
    champion beyond doubt: the interval of the gain lies above zero and the gain is worth a swap. Where the champion
    is old and the policy has ``refresh``, being no worse beyond doubt is enough. No guardrail may be broken: a metric
    over all rows keeps its margin; a slice is not worse by more than its margin beyond doubt, the number of guardrails
    being allowed for. Doubt, and what cannot be computed, means hold.

    :param label: the truth; all arrays hold one value a row.
    :param champion: predictions of the champion, None if there is none.
    :param days: day of each row, of any kind that can be compared.
    :param baseline: predictions without a model: of each row, or one for all, such as the training mean.
    :param slices: values of the columns which guardrails name.
    :param champion_age: how long before the challenger's the champion's data ends.
    :param uses: models already judged by this test span.
    :raises ConfigError: the policy names an unknown metric, or compares by one that is no loss.
    """
    validate(policy)
    wanted = {name: metric(name) for name in dict.fromkeys([policy.primary, *policy.absolute])}
    predictions = {"challenger": challenger, "champion": champion, "baseline": baseline}
    given = {name: _floats(value, len(label)) for name, value in predictions.items() if value is not None}
    truth = _floats(label, len(label))
    if broken := _broken(truth, given, days):
        return _decision(policy, [broken], {}, days)
    values = {name: {m: of(truth, p) for m, of in wanted.items()} for name, p in given.items()}
    checks = _enough(policy, truth, uses) + _bounds(policy, values["challenger"])
    checks += _against_baseline(policy, values["baseline"][policy.primary], values["challenger"][policy.primary])
    if champion is None:
        return _decision(policy, checks, values, days)
    sums = _sums(policy.primary, truth, given["champion"], given["challenger"], days)
    gain, interval = gain_interval(sums, root=policy.primary == "rmse", confidence=policy.confidence)
    checks += _comparison(policy, len(sums), gain, interval, champion_age)
    rails = _guardrails(policy, truth, given, np.asarray(days), slices or {})
    checks += _unseen(policy, len(truth), slices or {})
    return _decision(policy, [*checks, *(rail.check(policy) for rail in rails)], values, days, gain, interval, rails)


@dataclass(frozen=True)
class _Rail:
    """One guardrail, measured: how much worse the challenger is, and how likely that is by chance."""

    name: str
    rail: Guardrail
    rows: int
    worse_by: float
    p: float

    def check(self, policy: Promotion) -> Check:
        """Return whether it holds."""
        detail = f"worse by {self.worse_by:.4g}, borne {self.rail.no_worse_than:.4g}, p {self.p:.3g} corrected"
        if not np.isfinite(self.worse_by):
            return Check(self.name, False, "not defined on these rows", "held")
        over = self.worse_by > self.rail.no_worse_than
        sure = self.p < 1 - policy.confidence
        if over and sure:
            return Check(self.name, False, detail, "rejected")
        # a slice is small: what may be chance does not stop it; over all rows the margin is kept as it is
        return Check(self.name, not over or bool(self.rail.slices), detail, "held")


def _guardrails(
    policy: Promotion, label: Array, given: Mapping[str, Array], days: Array, slices: Mapping[str, Array]
) -> list[_Rail]:
    measured = [
        (name, rail, int(rows.sum()), *_worse(rail.metric, label[rows], given, rows, days[rows]))
        for rail in policy.guardrails
        for name, rows in _parts(rail, len(label), slices)
    ]
    corrected = adjusted([p for *_, p in measured], policy.correction)
    return [
        _Rail(name, rail, rows, worse, p) for (name, rail, rows, worse, _), p in zip(measured, corrected, strict=True)
    ]


def _unseen(policy: Promotion, rows: int, slices: Mapping[str, Array]) -> list[Check]:
    """Return a failed check for each guardrail that has nothing to look at: what is missing means hold."""
    return [
        Check(f"{rail.metric} by {', '.join(rail.slices)}", False, f"no slice has {rail.min_rows} rows", "held")
        for rail in policy.guardrails
        if not _parts(rail, rows, slices)
    ]


def _parts(rail: Guardrail, count: int, slices: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """Return the rows a guardrail looks at, by name."""
    if not rail.slices:
        return [(rail.metric, np.ones(count, bool))]
    found = []
    for column in rail.slices:
        if column not in slices:
            raise ConfigError(f"promotion.guardrails: there is no column {column!r}.", "Name a feature of the service.")
        names, place = np.unique(np.asarray([str(value) for value in slices[column]]), return_inverse=True)
        parts = [(f"{rail.metric} of {column}={name}", place == n) for n, name in enumerate(names)]
        found += [(name, rows) for name, rows in parts if rows.sum() >= rail.min_rows]
    return found


def _worse(name: str, label: Array, given: Mapping[str, Array], rows: Array, days: Array) -> tuple[float, float]:
    """Return by how much the challenger is worse, and how likely that much is if it is no worse."""
    sums = _sums(name, label, given["champion"][rows], given["challenger"][rows], days)
    if not np.isfinite(sums).all():
        return float("nan"), 1.0
    gain, p = worse_p(sums, root=name == "rmse")
    return -gain, p


def _sums(name: str, label: Array, champion: Array, challenger: Array, days: Array) -> Array:
    rows = auc_rows if name == "auc" else ROWS[name]
    return by_day(rows(label, champion), rows(label, challenger), days)


def _enough(policy: Promotion, label: Array, uses: int) -> list[Check]:
    checks = [
        Check(
            "test set",
            uses < policy.test_set_uses,
            f"{uses} models were judged by this span before, allowed {policy.test_set_uses}",
            "held",
        ),
        Check("rows", len(label) >= policy.min_rows, f"{len(label)}, needed {policy.min_rows}", "held"),
    ]
    if policy.min_positives:
        fewer = int(min((label > 0.5).sum(), (label <= 0.5).sum()))
        checks.append(
            Check("both labels", fewer >= policy.min_positives, f"{fewer}, needed {policy.min_positives}", "held")
        )
    return checks


def _floats(value: Any, rows: int) -> Array:
    array = np.asarray(value, float)
    return np.broadcast_to(array, (rows,)) if array.ndim == 0 else array


def _broken(label: Array, given: dict[str, Array], days: Array) -> Check | None:
    """Return what makes the evidence worthless, None if it is sound."""
    if not len(label):
        return Check("rows", False, "none is left to compare on", "invalid")
    for name, values in {"label": label, "days": days, **given}.items():
        if len(values) != len(label):
            return Check("rows", False, f"{len(values)} of {name} for {len(label)} labels", "invalid")
    for name, values in {"label": label, **given}.items():
        if missing := int((~np.isfinite(values)).sum()):
            return Check("missing values", False, f"{missing} of {len(label)} in {name}", "invalid")
    return None


def _bounds(policy: Promotion, values: dict[str, float]) -> list[Check]:
    checks = []
    for name, (low, high) in policy.absolute.items():
        value = values[name]
        if not np.isfinite(value):
            checks.append(Check(name, False, "not defined on these rows", "held"))
            continue
        ok = (low is None or value >= low) and (high is None or value <= high)
        limits = f"{'-' if low is None else low} .. {'-' if high is None else high}"
        checks.append(Check(name, ok, f"{value:.4f}, bounds {limits}", "rejected"))
    return checks


def _against_baseline(policy: Promotion, baseline: float, challenger: float) -> list[Check]:
    lead, need = baseline - challenger, policy.beat_baseline_by
    checks = [Check("baseline", lead >= need, f"better by {lead:.4g}, needed {need:.4g}", "rejected")]
    if policy.most_of_baseline is not None:
        limit = policy.most_of_baseline * baseline
        told = f"{challenger:.4g}, at most {policy.most_of_baseline:g} x {baseline:.4g} = {limit:.4g}"
        checks.append(Check("share of the baseline", challenger <= limit, told, "rejected"))
    return checks


def _comparison(
    policy: Promotion, days: int, gain: float, interval: tuple[float, float], champion_age: timedelta | None
) -> list[Check]:
    low, high = interval
    text = f"gain {gain:.4f}, {policy.confidence:.0%} interval {low:.4f} .. {high:.4f}"
    checks = [
        Check("days", days >= policy.min_days, f"{days}, needed {policy.min_days}", "held"),
        Check("not worse", days < policy.min_days or not high < 0, text, "rejected"),
    ]
    better = [
        Check("worth a swap", gain >= policy.min_effect, f"gain {gain:.4f}, needed {policy.min_effect:.4g}", "held"),
        Check("better beyond doubt", bool(low > 0), text, "held"),
    ]
    old = policy.refresh is not None and champion_age is not None and champion_age >= policy.refresh.after
    if policy.refresh and old and not all(check.ok for check in better):
        margin = policy.refresh.margin
        told = f"{text}; the champion's data is {champion_age} older, borne loss {margin:.4g}"
        better = [Check("refresh: no worse beyond doubt", bool(low > -margin), told, "held")]
    return checks + better


def _decision(
    policy: Promotion,
    checks: list[Check],
    values: dict[str, dict[str, float]],
    days: Array,
    gain: float | None = None,
    interval: tuple[float, float] | None = None,
    rails: list[_Rail] | None = None,
) -> Decision:
    failed = {check.otherwise for check in checks if not check.ok}
    severest: tuple[Outcome, ...] = ("invalid", "rejected", "held")
    outcome: Outcome = next((each for each in severest if each in failed), "promoted")
    spec = policy.model_dump(mode="json")
    evidence = {
        "policy": spec,
        "policy_hash": content_hash(spec),
        "policy_version": policy.version,
        "unit": "day",
        "rows": len(days),
        "days": len(np.unique(np.asarray(days))),
        "method": "Student's t over days",
        "outcome": outcome,
        "metrics": values,
        "gain": gain,
        "interval": interval,
        "guardrails": [
            {"name": rail.name, "rows": rail.rows, "worse_by": rail.worse_by, "p": rail.p} for rail in rails or []
        ],
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
    }
    return Decision(outcome, tuple(checks), values, gain, interval, jsonable(evidence))
