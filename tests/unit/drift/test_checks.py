"""When an effect is an alarm, and how seldom chance alone is one."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from adin.drift import checks
from adin.drift.histograms import Days, starts
from adin.drift.references import ROWS, Feature, Reference
from adin.problem import Drift

START = date(2013, 1, 1)


def finding(values, limit=0.1):
    days = [str(START + timedelta(days=n)) for n in range(len(values))]
    return checks.Finding("data", "x", "psi", limit, days, values, [])


@pytest.mark.flow(15)
@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([0, 0, 0.2], None),
        ([0, 0.2, 0.2], "2013-01-02"),
        ([0.2, 0, 0.2], "2013-01-01"),
        ([0.2, 0.2, 0, 0], None),
        ([0.2, 0.2, 0, 0.2, 0.2], "2013-01-01"),
        ([0.2, 0.2, 0, 0, 0.2, 0.2], "2013-01-05"),
        ([0.2, None, None, 0.2], "2013-01-01"),
        ([None, None, None], None),
        ([0.1, 0.1, 0.1], None),
        ([0.2], None),
        ([], None),
    ],
)
def test_most_of_the_newest_windows_that_say_something_must_be_over_the_limit(values, since):
    found = checks.judged(Drift(windows=3), finding(values))
    assert (found.active, found.since) == (since is not None, since)


def test_one_window_is_enough_where_the_policy_says_so():
    assert checks.judged(Drift(windows=1), finding([0, 0.2])).since == "2013-01-02"


def test_the_reference_teaches_the_limit_and_never_one_below_the_floor():
    calm, wild = np.full(100, 0.01), np.linspace(0, 1, 101)
    assert checks.limit(calm, 0.1) == 0.1
    assert checks.limit(wild, 0.1) == pytest.approx(0.99)
    assert checks.limit([0.3, np.nan, 0.2], 0.1) == 0.3
    assert checks.limit([], 0.1) == 0.25


def test_windows_are_whole_and_end_with_the_last_day():
    assert starts(date(2013, 1, 1), date(2013, 1, 18), 7).tolist() == [date(2013, 1, 4), date(2013, 1, 11)]
    assert starts(date(2013, 1, 1), date(2013, 1, 3), 7).tolist() == []


def year(seed: int, features: int, days: int = 365, rows: int = 800) -> dict[str, np.ndarray]:
    """Return counts by day of features whose days differ: levels wander by day, as weather and crowds do."""
    draw = np.random.default_rng(seed)
    found = {}
    for n in range(features):
        level = draw.normal(0, 0.1 + 0.2 * n, (days, 1)) + 0.2 * draw.normal(0, 1, (days, 1)) ** 3
        weight = np.exp(level * np.linspace(-1, 1, 10))
        counts = draw.multinomial(rows, weight / weight.sum(axis=1, keepdims=True))
        found[f"v__{n}"] = np.column_stack([np.zeros((days, 2)), counts, np.zeros(days)])
    return found


def alarms_of(counts: dict[str, np.ndarray], learned: int, last: int) -> int:
    """Return how many alarms begin while the new days come one by one."""
    edges = tuple(float(n) for n in range(11))
    reference = Reference(
        "p", "r", "c", "", (), START + timedelta(days=learned - 1), 0, tuple(Feature(name, edges) for name in counts)
    )
    day = np.datetime64(START) + np.arange(last)
    none = np.full(last, np.nan)

    def part(first: int, after: int) -> dict[str, Days]:
        told = {name: Days(day[first:after], each[first:after], none[first:after], none[first:after])
                for name, each in counts.items()}  # fmt: skip
        rows = next(iter(counts.values())).sum(axis=1)[first:after]
        return told | {ROWS: Days(day[first:after], np.column_stack([rows, 0 * rows]), none, none)}

    span = checks.Span(START, reference.last, START + timedelta(days=last))
    found = checks.run(Drift(), reference, span, part(0, learned), part(learned, last))
    began = 0
    for each in found:
        states = [
            checks.judged(Drift(), replace(each, windows=each.windows[:n], values=each.values[:n])).active
            for n in range(1, len(each.values) + 1)
        ]
        began += int(np.sum(np.diff([False, *states]) > 0))
    return began


@pytest.mark.flow(15)
def test_shuffled_days_raise_at_most_one_alarm_a_month_and_feature():
    features, worlds, learned, last = 6, 12, 240, 365
    began = 0
    for seed in range(worlds):
        order = np.random.default_rng(seed).permutation(last)
        began += alarms_of({name: each[order] for name, each in year(seed, features).items()}, learned, last)
    months = worlds * (last - learned) / 30
    assert began / (months * features) <= 1
    assert began / (months * features) <= 0.1, "it is far rarer in truth; a rise means the limits are wrong"


def test_the_same_days_with_a_real_shift_do_raise_one_for_each_feature():
    counts = year(3, 3)
    shifted = {name: np.concatenate([each[:240], np.roll(each[240:], 3, axis=1)]) for name, each in counts.items()}
    assert alarms_of(shifted, 240, 365) >= 3
