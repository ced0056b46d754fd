"""Feature rows and events that are hard to join, planted and random, and an oracle that looks at every row."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
from adin.features import repo
from adin.window import Window

WINDOW = Window.parse("2021-01-01", "2021-03-31")
BEFORE, WAITED = timedelta(hours=1), timedelta(hours=2)
TTL = {"pair": timedelta(hours=6), "brief": timedelta(minutes=30), "fixed": None}
KEYS = {"pair": ("a", "b"), "brief": ("a",), "fixed": ("n",)}
FEATURES = {"pair": ("value", "note", "flag"), "brief": ("value",), "fixed": ("value",)}
REFERENCES = [f"{view}:{name}" for view, names in FEATURES.items() for name in names]
KINDS = {"a": "string", "b": "string", "n": "bigint", "value": "double", "note": "string", "flag": "boolean"}
KINDS |= {"id": "string", "factor": "double", "at": "timestamp", "late": "int"}
ARROW = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64(), "int": pa.int32()}
ARROW |= {"boolean": pa.bool_()}
T = datetime(2021, 1, 20, 12, tzinfo=UTC)  # prediction time of the planted events
MICROSECOND = timedelta(microseconds=1)
NAN = float("nan")


def planted_values():
    """Feature rows for the planted events; the event's name is its key."""
    hour = timedelta(hours=1)
    pair = [
        ("late", T - hour, T + MICROSECOND, 666.0),  # happened before, known after
        ("late", T - 2 * hour, T - 2 * hour, 1.0),
        ("future", T + MICROSECOND, T + MICROSECOND, 666.0),
        ("now", T, T, 2.0),
        ("corrected", T - hour, T - hour, 666.0),
        ("corrected", T - hour, T - MICROSECOND, 3.0),  # same event, known in time
        ("corrected-late", T - hour, T - hour, 4.0),
        ("corrected-late", T - hour, T + hour, 666.0),  # same event, known too late
        ("straggler", T - 3 * hour, T - MICROSECOND, 666.0),  # known last, but of an earlier event
        ("straggler", T - hour, T - hour, 5.0),
        ("ttl-edge", T - 6 * hour, T - 6 * hour, 6.0),
        ("ttl-over", T - 6 * hour - MICROSECOND, T - 6 * hour, 666.0),
        ("twice", T - hour, T - hour, 7.0),
        ("twice", T - hour, T - hour, 7.0),
        ("null-value", T - 2 * hour, T - 2 * hour, 666.0),
        ("null-value", T - hour, T - hour, None),  # known to be unknown
        ("no-created", T - hour, T - hour - MICROSECOND, 666.0),
        ("no-created", T - hour, None, 8.0),  # known from its event time on
        ("no-created-late", T + MICROSECOND, None, 666.0),
    ]
    rows = [_pair(a, "k", value, a, event=event, created=created) for a, event, created, value in pair]
    for a, b, value in (("1", "12", 112.0), ("11", "2", 1102.0), (None, "k", 666.0), ("k", None, 666.0)):
        rows.append(_pair(a, b, value, f"{a}/{b}"))
    # the last of each name is the greatest
    rows += [
        _pair("tied-value", "k", value, note) for value, note in ((None, "z"), (-7.0, None), (3.0, "b"), (7.0, "a"))
    ]
    rows += [_pair("tied-nan", "k", value, None) for value in (7.0, float("inf"), NAN)]
    rows += [_pair("tied-zero", "k", value, note) for value, note in ((0.0, "1"), (-0.0, "2"), (0.0, "3"), (-0.0, "4"))]
    rows += [_pair("tied-note", "k", 1.0, note) for note in (None, "", "B", "a", "é", "\uffff", "😀")]
    rows += [_pair("tied-flag", "k", None, None, flag=flag) for flag in (None, False, True)]
    # where a true flag marks deleted rows, this one counts before the greater
    rows += [_pair("tied-deleted", "k", value, None, flag=value is None) for value in (None, 9.0)]
    return rows


def _pair(a, b, value, note, *, flag=True, event=T, created=T):
    content = {"value": value, "note": note, "flag": flag}
    return {"a": a, "b": b, "event_timestamp": event, "created_timestamp": created, **content}


def planted_events():
    """One event for each planted name, and some of their own kind."""
    names = sorted({row["a"] for row in planted_values() if row["b"] == "k" and row["a"]})
    events = [_event(name, a=name, b="k") for name in names]
    events += [
        _event("1+12", a="1", b="12"),
        _event("11+2", a="11", b="2"),
        _event("no-a", a=None, b="k"),
        _event("no-b", a="k", b=None),
        _event("no-keys", a=None, b=None, n=None),
        _event("static", n=77),
        _event("repeated", a="now", b="k"),
        _event("repeated", a="now", b="k"),
        _event("unlabelled", late=None),
        _event("told-too-late", known=WINDOW.end),
        _event("too-fresh", at=WINDOW.end - WAITED + MICROSECOND, known=WINDOW.end - MICROSECOND),
        _event("just-known", at=WINDOW.end - WAITED, known=WINDOW.end - MICROSECOND),
        _event("last-of-train", at=datetime(2021, 1, 28, tzinfo=UTC) - MICROSECOND),
        _event("first-of-validate", at=datetime(2021, 1, 28, tzinfo=UTC)),
        _event("first-of-test", at=datetime(2021, 2, 28, tzinfo=UTC)),
    ]
    return events


def _event(name, *, a="none", b="none", n=0, at=T + BEFORE, late=1, known=None):
    known = known or at + timedelta(minutes=20)
    return {
        "id": name, "a": a, "b": b, "n": n, "factor": 2.0, "at": at, "late": late,
        "event_timestamp": known, "created_timestamp": known,
    }  # fmt: skip


def random_cases(chance: random.Random):
    """Rows on a coarse grid of times and few keys, so that ties, borders and overlaps are common."""
    grid = timedelta(minutes=10)
    starts = [datetime(2021, 1, 27, 20, tzinfo=UTC), datetime(2021, 2, 27, 20, tzinfo=UTC), WINDOW.end - 24 * 6 * grid]
    a, b, n = ["1", "11", "x", None], ["12", "2", None], [1, 2, 3, None]

    def moment():
        return chance.choice(starts) + chance.randrange(72) * grid

    def value(view, keys):
        event = moment() - (timedelta(days=chance.choice([0, 300])) if view == "fixed" else timedelta(0))
        delay = chance.choice([0, 0, 0, 1, 6, 40, 300]) * grid
        created = chance.choice([event + delay] * 9 + [None])
        return {**keys, "event_timestamp": event, "created_timestamp": created, **content(view)}

    def content(view):
        numbers = list(range(9)) if view == "fixed" else [0.5, 1.5, -3.0, 0.0, -0.0, NAN, None]
        words = {"note": chance.choice(["s", "t", "T", "é", "", None]), "flag": chance.choice([True, False, None])}
        return {"value": chance.choice(numbers), **(words if view == "pair" else {})}

    values = {
        "pair": [value("pair", {"a": chance.choice(a), "b": chance.choice(b)}) for _ in range(900)],
        "brief": [value("brief", {"a": chance.choice(a)}) for _ in range(500)],
        "fixed": [value("fixed", {"n": chance.choice(n)}) for _ in range(200)],
    }
    for rows in values.values():
        rows += chance.sample(rows, 40)  # exact repetitions
    for view, rows in values.items():
        rows += [row | content(view) for row in chance.choices(rows, k=len(rows) // 3)]  # ties
    events = [
        _event(
            f"random-{number}",
            a=chance.choice(a),
            b=chance.choice(b),
            n=chance.choice(n),
            at=(at := moment() + BEFORE),
            late=chance.choice([0, 0, 1, None]),
            known=at + chance.choice([0, 1, 30, 200]) * grid,
        )
        for number in range(5200)
    ]
    return values, events


def right(event, view, values):
    """Return the answer that is right: the features of the last row that could be known, or nothing."""
    keys = KEYS[view]
    t = event["at"] - BEFORE
    nothing = tuple(None for _ in FEATURES[view])
    if any(event[key] is None for key in keys):
        return nothing
    seen = [
        row
        for row in values
        if all(row[key] == event[key] for key in keys) and row["event_timestamp"] <= t and known(row) <= t
    ]
    found = last(seen, view)
    if found is None or (TTL[view] is not None and found["event_timestamp"] < t - TTL[view]):
        return nothing
    return tuple(found[feature] for feature in FEATURES[view])


def known(row):
    """Return when a row was known: without a created time, from its event time on."""
    return row["created_timestamp"] or row["event_timestamp"]


def last(rows, view, deleted=None):
    """Return which of one key's rows counts; None if there is none. The column ``deleted`` marks deleted rows."""

    def worth(row):
        mark = deleted is not None and row[deleted] is True
        return row["event_timestamp"], known(row), mark, [weight(row[name]) for name in FEATURES[view]]

    return max(rows, key=worth, default=None)


def weight(value):
    """Return a value as what compares with others as the engines do: null first, NaN last, text by its bytes."""
    if value is None:
        return (0,)
    if value != value:
        return (2,)
    return (1, value.encode() if isinstance(value, str) else value)


def plain(values):
    """Return an answer with null for NaN, which pandas does not tell apart."""
    return tuple(None if pd.isna(value) else value for value in values)


def entity_rows(events):
    """Return events as a frame for Feast, each with the time of its prediction and an id of its own."""
    return pd.DataFrame(
        {
            "id": [f"{event['id']}/{place}" for place, event in enumerate(events)],
            "event_timestamp": [event["at"] - BEFORE for event in events],
            **{key: [event[key] for event in events] for key in ("a", "b")},
            "n": pd.array([event["n"] for event in events], dtype="Int64"),
        }
    )


def answer(row, view):
    """Return a view's features in a row of Feast's answer with full names."""
    return plain(row[f"{view}__{name}"] for name in FEATURES[view])


def check(joined, events, values):
    """Compare Feast's answer, by id, with the oracle's."""
    assert len(joined) == len(events)
    for place, event in enumerate(events):
        for view in FEATURES:
            found = answer(joined[f"{event['id']}/{place}"], view)
            wanted = plain(right(event, view, values[view]))
            assert found == wanted, f"{event['id']}, {view}: {found} for {wanted}"


def write(write_features, values, events, chance):
    """Write all tables, rows in an order of chance."""
    for view, rows in {**values, "events": events}.items():
        kinds = {name: kind for name, kind in KINDS.items() if name in rows[0]}
        if view == "fixed":
            kinds["value"] = "bigint"
        kinds |= {"event_timestamp": "timestamp", "created_timestamp": "timestamp"}
        schema = pa.schema([(name, ARROW.get(kind, pa.timestamp("us", "UTC"))) for name, kind in kinds.items()])
        write_features(repo.domain("adin_scratch").view(view), schema, chance.sample(rows, len(rows)), kinds)


def all_cases(seed):
    """Feature rows by view, and events: planted and random."""
    values, events = random_cases(random.Random(seed))
    values["pair"] += planted_values()
    old = datetime(2019, 5, 5, tzinfo=UTC)
    values["fixed"].append({"n": 77, "event_timestamp": old, "created_timestamp": old, "value": 77})
    return values, events + planted_events()
