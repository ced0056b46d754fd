"""Whether a challenger may replace the champion: a decision with its reasons, from predictions alone.

The unit of evidence is the day, never the row: the flights of one day share weather and crowds, and a test that
takes them for independent is "sure" of differences which are only a bad week. Losses are summed per day and days
are drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from adin.errors import ConfigError
from adin.models.manifest import jsonable
from adin.problem import Promotion
from adin.promotion.metrics import ROWS, Array, metric
from adin.run_key import content_hash

Outcome = Literal["promoted", "held", "rejected", "invalid"]

DRAWS = 2000
SEED = 20130101


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


def decide(
    policy: Promotion,
    *,
    label: Array,
    challenger: Array,
    champion: Array | None,
    days: Array,
    baseline: Array | float,
) -> Decision:
    """Decide from the predictions of both models for the same rows.

    A first model must keep the absolute bounds and beat the baseline. A later one must also be better than the
    champion beyond doubt: the interval of the gain lies above zero and the gain is worth a swap. Doubt means hold.

    :param label: the truth; all arrays hold one value a row.
    :param champion: predictions of the champion, None if there is none.
    :param days: day of each row, of any kind that can be compared.
    :param baseline: prediction without a model, such as the training mean.
    :raises ConfigError: the policy names an unknown metric, or compares by one that is no loss.
    """
    if policy.primary not in ROWS:
        raise ConfigError(
            f"promotion.primary is {policy.primary!r}, which cannot be compared by day.",
            f"Write one of {', '.join(ROWS)}; others can be bounded under promotion.absolute.",
        )
    wanted = {name: metric(name) for name in dict.fromkeys([policy.primary, *policy.absolute])}
    predictions = {"challenger": challenger, "champion": champion, "baseline": baseline}
    given = {name: _floats(value, len(label)) for name, value in predictions.items() if value is not None}
    truth = _floats(label, len(label))
    if broken := _broken(truth, given, days):
        return _decision(policy, [broken], {}, days)
    values = {name: {m: of(truth, p) for m, of in wanted.items()} for name, p in given.items()}
    checks = _bounds(policy, values["challenger"])
    lead = values["baseline"][policy.primary] - values["challenger"][policy.primary]
    need = policy.beat_baseline_by
    checks.append(Check("baseline", lead >= need, f"better by {lead:.4g}, needed {need:.4g}", "rejected"))
    if champion is None:
        return _decision(policy, checks, values, days)
    loss = ROWS[policy.primary]
    sums = by_day(loss(truth, given["champion"]), loss(truth, given["challenger"]), days)
    gain, interval = gain_interval(sums, root=policy.primary == "rmse", confidence=policy.confidence)
    checks += _comparison(policy, len(sums), gain, interval)
    return _decision(policy, checks, values, days, gain, interval)


def by_day(champion: Array, challenger: Array, days: Array) -> Array:
    """Return sums per day, shape ``(days, 3)``: loss of the champion, of the challenger, rows."""
    _, place = np.unique(np.asarray(days), return_inverse=True)
    return np.stack([np.bincount(place, weights) for weights in (champion, challenger, np.ones(len(place)))], axis=1)


def gain_interval(
    sums: Array, *, root: bool = False, confidence: float = 0.95, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, tuple[float, float]]:
    """Return the gain of the challenger and its confidence interval by a studentised bootstrap over days.

    Studentised, because the plain percentiles are too sure of themselves with few days.

    :param sums: as :func:`by_day` gives them.
    :param root: the metric is the root of the mean loss.
    :param draws: how often the days are drawn.
    """
    count = len(sums)
    gain, error = (value[0] for value in _gains(np.ones((1, count)), sums, root))
    if count < 2 or not error > 0:
        return float(gain), (float(gain), float(gain)) if count > 1 else (float("-inf"), float("inf"))
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    drawn, errors = _gains(weights.astype(float), sums, root)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn - gain) / errors
    tail = (1 - confidence) / 2
    low, high = np.quantile(t[np.isfinite(t)], [1 - tail, tail])
    return float(gain), (float(gain - low * error), float(gain - high * error))


def _gains(weights: Array, sums: Array, root: bool) -> tuple[Array, Array]:
    """Return gain and standard error of each draw, by linearising the gain in the sums of a day."""
    old, new, rows = (weights @ sums).T
    mean_old, mean_new = old / rows, new / rows
    if root:
        root_old, root_new = np.sqrt(mean_old), np.sqrt(mean_new)
        gain = root_old - root_new
        slopes = np.stack([0.5 / root_old, -0.5 / root_new, -0.5 * gain])
    else:
        gain = mean_old - mean_new
        slopes = np.stack([np.ones_like(gain), -np.ones_like(gain), -gain])
    # sum over days of weight x (slopes . sums)^2, with the products of sums weighted once
    products = np.einsum("di,dj->dij", sums, sums).reshape(len(sums), 9)
    moments = (weights @ products).reshape(-1, 3, 3)
    squares = np.einsum("in,nij,jn->n", slopes, moments, slopes)
    count = len(sums)
    return gain, np.sqrt(np.maximum(squares, 0) * count / max(count - 1, 1)) / rows


def _floats(value: Any, rows: int) -> Array:
    array = np.asarray(value, float)
    return np.broadcast_to(array, (rows,)) if array.ndim == 0 else array


def _broken(label: Array, given: dict[str, Array], days: Array) -> Check | None:
    """Return what makes the evidence worthless, None if it is sound."""
    if not len(label):
        return Check("rows", False, "there are none", "invalid")
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


def _comparison(policy: Promotion, days: int, gain: float, interval: tuple[float, float]) -> list[Check]:
    low, high = interval
    text = f"gain {gain:.4f}, {policy.confidence:.0%} interval {low:.4f} .. {high:.4f}"
    return [
        Check("days", days >= policy.min_days, f"{days}, needed {policy.min_days}", "held"),
        Check("not worse", days < policy.min_days or not high < 0, text, "rejected"),
        Check("worth a swap", gain >= policy.min_effect, f"gain {gain:.4f}, needed {policy.min_effect:.4g}", "held"),
        Check("better beyond doubt", bool(low > 0), text, "held"),
    ]


def _decision(
    policy: Promotion,
    checks: list[Check],
    values: dict[str, dict[str, float]],
    days: Array,
    gain: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Decision:
    failed = {check.otherwise for check in checks if not check.ok}
    severest: tuple[Outcome, ...] = ("invalid", "rejected", "held")
    outcome: Outcome = next((each for each in severest if each in failed), "promoted")
    spec = policy.model_dump(mode="json")
    evidence = {
        "policy": spec,
        "policy_hash": content_hash(spec),
        "unit": "day",
        "rows": len(days),
        "days": len(np.unique(np.asarray(days))),
        "method": {"name": "studentised bootstrap over days", "draws": DRAWS, "seed": SEED},
        "outcome": outcome,
        "metrics": values,
        "gain": gain,
        "interval": interval,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
    }
    return Decision(outcome, tuple(checks), values, gain, interval, jsonable(evidence))
