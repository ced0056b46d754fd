"""What is an alarm: an effect over a limit that the reference itself taught, in most of the newest windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import numpy as np

from adin.drift import statistics
from adin.drift.histograms import Days, starts
from adin.drift.references import ROWS, Feature, Reference
from adin.drift.statistics import Array
from adin.problem import Drift

Kind = Literal["data", "label", "concept", "quality"]
#: Kinds for which training anew may be the remedy; broken data is mended at its source.
LEARNABLE: tuple[Kind, ...] = ("data", "label", "concept")
#: Smallest limits: what lies below is no matter, however sure it is.
FLOORS = {
    "psi": 0.1,
    "label_psi": 0.05,
    "loss": 0.05,
    "nulls": 0.05,
    "new_values": 0.01,
    "out_of_range": 0.01,
    "missing_rows": 0.5,
    "duplicates": 0.001,
}
#: Quantile of the reference's own windows taken as limit; with fewer windows their largest value and a higher floor.
_QUANTILE, _ENOUGH, _UNSURE = 0.99, 10, 2.5


@dataclass(frozen=True)
class Span:
    """The days a check is about.

    :param first: first day of the reference.
    :param last: last day of the reference.
    :param until: day after the last new one that is complete.
    """

    first: date
    last: date
    until: date

    def windows(self, length: int) -> tuple[Array, Array]:
        """Return the first days of the reference's windows and of the new ones."""
        after = self.last.fromordinal(self.last.toordinal() + 1)
        return starts(self.first, after, length), starts(after, self.until, length)


@dataclass(frozen=True)
class Finding:
    """One check of one subject over all windows.

    :param subject: the feature, the label, ``rows``, or ``champion``.
    :param check: the name of the statistic, a key of :data:`FLOORS`.
    :param windows: first day of each new window.
    :param values: the statistic; None where a window has too few rows.
    :param learned: the statistic of the reference's own windows.
    :param since: first day of the windows over the limit that still go on; None unless it is an alarm.
    """

    kind: Kind
    subject: str
    check: str
    limit: float
    windows: list[str]
    values: list[float | None]
    learned: list[float | None]
    active: bool = False
    since: str | None = None

    @property
    def value(self) -> float | None:
        """Return the statistic of the newest window that says something."""
        return next((value for value in reversed(self.values) if value is not None), None)


def limit(learned: Array, floor: float) -> float:
    """Return the limit that the reference's own windows teach."""
    known = np.asarray(learned, float)
    known = known[np.isfinite(known)]
    if len(known) < _ENOUGH:
        return float(max([_UNSURE * floor, *known]))
    return float(max(floor, np.quantile(known, _QUANTILE)))


def judged(policy: Drift, finding: Finding) -> Finding:
    """Return a finding with its verdict: over the limit in most of the newest windows that say something."""
    places = [n for n, value in enumerate(finding.values) if value is not None]
    over = [n for n in places if (finding.values[n] or 0.0) > finding.limit]
    newest = places[-policy.windows :]
    if len([n for n in newest if n in over]) < needed(policy.windows):
        return finding
    begun = newest
    for end in range(len(places), 0, -1):  # back to where the alarm began
        looked = places[max(end - policy.windows, 0) : end]
        if len([n for n in looked if n in over]) < needed(policy.windows):
            break
        begun = looked
    since = next(n for n in begun if n in over)
    return replace(finding, active=True, since=finding.windows[since])


def needed(windows: int) -> int:
    """Return how many of the newest windows must be over the limit: most of them."""
    return windows // 2 + 1


def run(
    policy: Drift, reference: Reference, span: Span, training: Mapping[str, Days], new: Mapping[str, Days]
) -> list[Finding]:
    """Return the findings of data, label and data quality, judged."""
    found: list[Finding] = []
    for feature in reference.features:
        if feature.name in training and feature.name not in policy.ignore:
            found += _feature(policy, reference, feature, span, training[feature.name], new.get(feature.name))
    found += _rows(policy, span, training[ROWS], new.get(ROWS))
    return [judged(policy, each) for each in found]


def _feature(
    policy: Drift, reference: Reference, feature: Feature, span: Span, training: Days, new: Days | None
) -> list[Finding]:
    label = feature.name == reference.label
    before, after, dates = _counts(policy, span, training, new)
    rest = training.total - before  # a window of the reference is compared with the others, as a new one is with all
    kind: Kind = "label" if label else "data"
    enough = policy.min_rows
    made = [
        _finding(
            policy,
            (kind, feature.name, "label_psi" if label else "psi"),
            dates,
            _where(before[:, 1:].sum(axis=1) >= enough, statistics.psi(rest[:, 1:], before[:, 1:])),
            _where(after[:, 1:].sum(axis=1) >= enough, statistics.psi(training.total[1:], after[:, 1:])),
        )
    ]
    shares: dict[str, list[int]] = {} if label else {"nulls": [0]}
    if feature.strange:
        shares["out_of_range" if feature.numeric else "new_values"] = feature.strange
    for check, bins in shares.items():
        usual = statistics.share(training.total, bins)
        made.append(
            _finding(
                policy,
                ("quality", feature.name, check),
                dates,
                _where(before.sum(axis=1) >= enough, statistics.share(before, bins) - statistics.share(rest, bins)),
                _where(after.sum(axis=1) >= enough, statistics.share(after, bins) - usual),
            )
        )
    return made


def _rows(policy: Drift, span: Span, training: Days, new: Days | None) -> list[Finding]:
    before, after, dates = _counts(policy, span, training, new)
    usual = float(np.median(before.sum(axis=1))) if len(before) else float("nan")
    again = [_where(counts.sum(axis=1) >= policy.min_rows, statistics.share(counts, 1)) for counts in (before, after)]
    return [
        _finding(
            policy,
            ("quality", "rows", "missing_rows"),
            dates,
            *(1 - counts.sum(axis=1) / usual for counts in (before, after)),
        ),
        _finding(policy, ("quality", "rows", "duplicates"), dates, *again),
    ]


def _counts(policy: Drift, span: Span, training: Days, new: Days | None) -> tuple[Array, Array, Array]:
    length = policy.window.days
    old, fresh = span.windows(length)
    empty = np.zeros((len(fresh), training.counts.shape[1]))
    return training.windows(old, length), empty if new is None else new.windows(fresh, length), fresh


def _where(enough: Array, values: Array) -> Array:
    return np.where(enough, values, np.nan)


def _finding(policy: Drift, what: tuple[Kind, str, str], dates: Array, learned: Array, values: Array) -> Finding:
    kind, subject, check = what
    floor = dict(policy.floors).get(check, FLOORS[check])  # type: ignore[call-overload]
    return Finding(
        kind, subject, check, limit(learned, floor), [str(day) for day in dates], _plain(values), _plain(learned)
    )


def _plain(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in np.atleast_1d(values)]


def losses(policy: Drift, reference: Mapping[str, Array], new: Mapping[str, Array], span: Span) -> list[Finding]:
    """Return whether the champion's loss rose on the rows it has not learned from.

    :param reference: ``day``, ``loss`` (sum) and ``rows`` of the days by which the champion itself was judged.
    :param new: the same of later days.
    """
    length = policy.window.days
    old, fresh = span.windows(length)
    before, after = (_means(policy, days, at, length) for days, at in ((reference, old), (new, fresh)))
    usual = float(np.sum(reference["loss"]) / np.sum(reference["rows"]))
    what: tuple[Kind, str, str] = ("concept", "champion", "loss")
    return [judged(policy, _finding(policy, what, fresh, before / usual - 1, after / usual - 1))]


def _means(policy: Drift, days: Mapping[str, Array], at: Array, length: int) -> Array:
    empty = np.full(len(days["day"]), np.nan)
    counts = np.column_stack([days["loss"], days["rows"]])
    loss, rows = Days(np.asarray(days["day"], "datetime64[D]"), counts, empty, empty).windows(at, length).T
    return np.divide(loss, rows, out=np.full(len(at), np.nan), where=rows >= max(policy.min_rows, 1))


def compared(reference: Reference, before: Mapping[str, Days], after: Mapping[str, Days]) -> list[dict[str, Any]]:
    """Return how each feature was before and is after, the most changed first."""
    rows = [_compared(feature, before[feature.name], after[feature.name]) for feature in reference.features
            if feature.name in before and feature.name in after]  # fmt: skip
    return sorted(rows, key=lambda row: -(row["psi"] or 0) - abs(row["nulls"][1] - row["nulls"][0]))


def _compared(feature: Feature, before: Days, after: Days) -> dict[str, Any]:
    old, new = before.total, after.total
    told: dict[str, Any] = {
        "feature": feature.name,
        "psi": statistics.psi(old[1:], new[1:]),
        "jensen_shannon": statistics.jensen_shannon(old[1:], new[1:]),
        "nulls": [statistics.share(old, 0), statistics.share(new, 0)],
        "strange": statistics.share(new, feature.strange) if feature.strange else 0.0,
        "bins": feature.bins,
        "before": statistics.shares(old),
        "after": statistics.shares(new),
        "rows": [old.sum(), new.sum()],
    }
    if feature.numeric:
        moved, wide = (
            statistics.wasserstein(old[1:], new[1:], feature.places),
            statistics.spread(old[1:], feature.places),
        )
        told["kolmogorov_smirnov"] = statistics.kolmogorov_smirnov(old[1:], new[1:])
        told["wasserstein"] = moved / wide if wide else float("nan")
        told["range"] = [[_edge(np.fmin, before.low), _edge(np.fmax, before.high)],
                         [_edge(np.fmin, after.low), _edge(np.fmax, after.high)]]  # fmt: skip
    return {name: _json(value) for name, value in told.items()}


def _edge(of: Any, values: Array) -> float:
    return float(of.reduce(values)) if len(values) else float("nan")


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, str):
        return value
    return float(value) if np.isfinite(value) else None


def labels(findings: Sequence[Finding]) -> list[str]:
    """Return the alarms among findings as lines, for logs and people."""
    return [
        f"{each.kind} {each.subject}: {each.check} {each.value:.4g}, limit {each.limit:.4g}, since {each.since}"
        for each in findings
        if each.active and each.value is not None
    ]
