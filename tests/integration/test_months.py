"""The gate over months of flights: what it promotes, and a month of which it says that it does not know."""

from __future__ import annotations

import sys

import pytest
from adin.settings import ROOT

pytestmark = [pytest.mark.ml, pytest.mark.flow(14)]


def test_months_that_gain_are_promoted_and_the_inconclusive_july_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench.months import replay

    told = {row[0]: row for row in replay((6, 7, 9, 11))}
    assert {month: row[-1] for month, row in told.items()} == {
        "2013-06": "promoted", "2013-07": "held", "2013-09": "promoted", "2013-11": "held",
    }  # fmt: skip
    *_, by_row, by_day, _ = told["2013-07"]
    assert by_row.startswith("[0."), "a test by row is sure of a gain"
    assert by_day.startswith("[-"), "a test by day is not: the days differ more than the models"
