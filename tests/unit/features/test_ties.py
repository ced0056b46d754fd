"""Which of rows with the same key and times counts, against Python's own order of what the engines compare."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from adin.features.repo import View
from adin.features.ties import deciding, ordered
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import weight

pytestmark = pytest.mark.flow(2, 3)
AT = datetime(2021, 1, 1, tzinfo=UTC)
NUMBERS = [0.0, -0.0, 1.5, -1.5, float("inf"), float("nan")]
KINDS = {
    "real": (pa.float64(), NUMBERS),
    "single": (pa.float32(), NUMBERS),
    "whole": (pa.int64(), [2**62 + 1, 2**62, -1]),  # alike as floating-point numbers
    "flag": (pa.bool_(), [True, False]),
    "text": (pa.string(), ["", "Z", "a", "é", "\uffff", "😀"]),  # in UTF-16 the last two stand the other way round
    "word": (pa.dictionary(pa.int32(), pa.string()), ["b", "a"]),
    "bytes": (pa.binary(), [b"", b"\x7f", b"\x80"]),
    "time": (pa.timestamp("us", "UTC"), [AT, AT + timedelta(microseconds=1)]),
    "list": (pa.list_(pa.float64()), [[], [None], [1.0], [1.0, None], [1.0, 2.0], [2.0], [float("nan")]]),
    "half": (pa.float16(), [np.float16(each) for each in NUMBERS]),
    "large": (pa.large_list(pa.float64()), [[], [None], [1.0], [1.0, None], [2.0]]),
    "vector": (pa.list_(pa.float64(), 2), [[None, 1.0], [1.0, None], [1.0, 2.0], [2.0, float("nan")]]),
    "pair": (pa.struct([("x", pa.int64()), ("y", pa.string())]), [{"x": 1, "y": None}, {"x": 1, "y": "a"}]),
    "nothing": (pa.null(), []),
}
ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), *(st.sampled_from([None, *some]) for _, some in KINDS.values())),
    max_size=30,
)


def deep(value):
    """Return a value, or what it holds, as the oracle weighs it."""
    if isinstance(value, dict):
        return (1, [deep(each) for each in value.values()])
    return (1, [deep(each) for each in value]) if isinstance(value, list) else weight(value)


@settings(max_examples=300)
@given(ROWS, st.permutations(list(KINDS)))
def test_rows_are_sorted_by_numbers_and_tied_ones_by_their_columns(rows, order):
    places = {name: 2 + place for place, name in enumerate(KINDS)}
    columns = [pa.chunked_array([pa.array([row[places[n]] for row in rows], KINDS[n][0])]) for n in order]
    numbers = [np.array([row[place] for row in rows], np.int64) for place in (0, 1)]
    weights = [(*row[:2], *(deep(row[places[name]]) for name in order)) for row in rows]
    found = ordered(numbers, columns)
    assert sorted(found.tolist()) == list(range(len(rows)))
    assert [weights[place] for place in found] == sorted(weights)


def test_columns_of_rows_that_are_not_tied_are_not_looked_at():
    with pytest.raises(AttributeError):
        ordered([np.array([1, 1])], [None])
    assert ordered([np.array([2, 1])], [None]).tolist() == [1, 0]


@pytest.mark.parametrize("kind", [pa.map_(pa.string(), pa.int64()), pa.list_(pa.map_(pa.string(), pa.int64()))])
def test_a_column_of_a_type_without_an_order_decides_nothing(kind):
    value = [("b", 1)] if pa.types.is_map(kind) else [[("b", 1)]]
    maps = pa.chunked_array([pa.array([value, None, [], value], kind)])
    decided = ordered([np.zeros(4)], [maps, pa.chunked_array([pa.array([3, 1, 2, 0])])])
    assert decided.tolist() == [3, 1, 2, 0]


def test_a_mark_of_deletion_decides_before_the_features():
    view = View("v", "t", ("a",), (("value", "Int64"),), deleted="gone")
    rows = pa.table({"a": ["x"] * 4, "value": [5, None, 9, 7], "gone": [False, True, None, None]})
    assert ordered([np.zeros(4)], deciding(view, rows)).tolist() == [0, 3, 2, 1]


def test_a_worker_of_spark_finds_rows_without_this_package(tmp_path):
    from adin.features import point_in_time
    from adin.features.as_of import Seen

    view = View("v", "t", ("a",), (("value", "Int64"),))
    times = pa.array([AT, AT], pa.timestamp("us", "UTC"))
    rows = {"a": ["x", "x"], "value": [1, 2], "event_timestamp": times, "created_timestamp": times}
    (tmp_path / "seen").write_bytes(point_in_time.cloudpickle.dumps(Seen(view, pa.table(rows))))
    work = (
        "import pickle, sys\n"
        "import numpy, pyarrow\n"
        "sys.modules['adin'] = None\n"
        f"seen = pickle.load(open({str(tmp_path / 'seen')!r}, 'rb'))\n"
        "print(seen.take(seen.find([pyarrow.array(['x'])], numpy.array([2**60])))[0].to_pylist())"
    )
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[2]", done.stderr
