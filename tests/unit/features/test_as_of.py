"""What can be known of a key at a time, against an oracle that looks at every row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from adin.features.as_of import Clock, Seen, micros
from adin.features.repo import View
from hypothesis import example, given, settings
from hypothesis import strategies as st

START = datetime(2021, 1, 1, tzinfo=UTC)
TIMES, KINDS = st.integers(0, 9), {"a": pa.string(), "n": pa.int64()}
KEYS = st.tuples(st.sampled_from(["1", "11"]), st.integers(0, 1))
ROWS = st.lists(st.tuples(KEYS, TIMES, TIMES | st.none(), st.integers(-2, 2)), max_size=30)
ASKED = st.lists(st.tuples(st.tuples(st.sampled_from(["1", "11", "", None]), st.integers(-1, 3)), TIMES), max_size=20)


def at(minutes: int | None) -> datetime | None:
    return None if minutes is None else START + timedelta(minutes=minutes)


def table(rows: list) -> pa.Table:
    times = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "a": pa.array([key[0] for key, *_ in rows], pa.string()),
            "n": pa.array([key[1] for key, *_ in rows], pa.int64()),
            "event": pa.array([at(event) for _, event, _, _ in rows], times),
            "created": pa.array([at(created) for _, _, created, _ in rows], times),
            "value": pa.array([value for *_, value in rows], pa.int64()),
        }
    )


def oracle(rows: list, key: tuple, moment: int, ttl: int) -> int | None:
    known = [
        (event, event if created is None else created, value)
        for own, event, created, value in rows
        if own == key and event <= moment and (created is None or created <= moment)
    ]
    best = max(known, default=None)
    return None if best is None or (ttl and best[0] < moment - ttl) else best[2]


@pytest.mark.flow(2, 3)
@settings(max_examples=500)
@given(ROWS, ASKED, st.sampled_from([0, 1, 4]))
@example([(("1", 1), 3, 3, 7), (("1", 1), 0, 5, 9)], [(("1", 1), 6)], 0)  # known last, but of an earlier event
def test_the_row_that_is_found_is_the_greatest_that_could_be_known(rows, asked, ttl):
    view = View("v", "t", ("a", "n"), (("value", "Int64"),), timedelta(minutes=ttl), event="event", created="created")
    seen = Seen(view, table(rows))
    keys = [pa.array([key[n] for key, _ in asked], kind) for n, kind in enumerate(KINDS.values())]
    moments = micros(pa.array([at(moment) for _, moment in asked], pa.timestamp("us", "UTC")))
    (found,) = seen.take(seen.find(keys, moments))
    assert found.to_pylist() == [oracle(rows, key, moment, ttl) for key, moment in asked]


@pytest.mark.flow(2, 3)
def test_a_feature_that_is_not_wanted_decides_and_is_not_kept():
    view = View("v", "t", ("a",), (("value", "Int64"), ("mark", "Int64")), event="event", created="created")
    rows = table([(("1", 1), 0, 0, value) for value in (5, 7, 6)]).append_column("mark", pa.array([1, 2, 3]))
    seen = Seen(view, rows, ["mark"])
    assert [each.to_pylist() for each in seen.take(seen.find([pa.array(["1"])], np.array([2**60])))] == [[2]]


@pytest.mark.flow(2, 3)
def test_a_row_that_asks_for_no_time_finds_nothing():
    view = View("v", "t", ("a", "n"), (("value", "Int64"),), event="event", created="created")
    seen = Seen(view, table([(("1", 1), 0, 0, 5)]))
    nothing = micros(pa.array([None], pa.timestamp("us", "UTC")))
    assert seen.find([pa.array(["1"]), pa.array([1])], nothing).to_pylist() == [None]
    assert seen.find([pa.array(["1"]), pa.array([1])], np.array([2**60])).to_pylist() == [0]


@pytest.mark.flow(2, 3)
@settings(max_examples=300)
@given(st.lists(st.integers(0, 40), min_size=1), st.lists(st.integers(-5, 50)), st.sampled_from([1, 60_000_000]))
@pytest.mark.parametrize("keys", [1, 2**62], ids=["numbers that fit", "ranks, where they would not"])
def test_a_clock_reads_the_latest_of_its_times_that_is_not_after_a_moment(keys, times, moments, unit):
    known, asked = np.array(times) * unit, np.array(moments, np.int64) * unit + unit // 2
    clock = Clock(known, keys)
    at = dict(zip(clock.read(known).tolist(), known.tolist(), strict=True))
    assert len(at) == len(set(times)), "each time has a number of its own"
    for moment, number in zip(asked.tolist(), clock.read(asked).tolist(), strict=True):
        before = [time for time in known.tolist() if time <= moment]
        latest = max((time for found, time in at.items() if found <= number), default=None)
        assert latest == max(before, default=None)
        assert -1 <= number < clock.span
