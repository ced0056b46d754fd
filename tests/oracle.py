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
FEATURES = {"pair": ("value", "note"), "brief": ("value",), "fixed": ("value",)}
REFERENCES = [f"{view}:{name}" for view, names in FEATURES.items() for name in names]
KINDS = {"a": "string", "b": "string", "n": "bigint", "value": "double", "note": "string", "id": "string"}
KINDS |= {"factor": "double", "at": "timestamp", "late": "int"}
ARROW = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64(), "int": pa.int32()}
T = datetime(2021, 1, 20, 12, tzinfo=UTC)  # prediction time of the planted events
MICROSECOND = timedelta(microseconds=1)


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
    ]
    rows = [
        {"a": a, "b": "k", "event_timestamp": event, "created_timestamp": created, "value": value, "note": a}
        for a, event, created, value in pair
    ]
    for a, b, value in (("1", "12", 112.0), ("11", "2", 1102.0), (None, "k", 666.0), ("k", None, 666.0)):
        rows.append({"a": a, "b": b, "event_timestamp": T, "created_timestamp": T, "value": value, "note": f"{a}/{b}"})
    return rows


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
        content = {"value": chance.randrange(9) if view == "fixed" else chance.choice([0.5, 1.5, -3.0, None])}
        if view == "pair":
            content["note"] = chance.choice(["s", "t", None])
        return {**keys, "event_timestamp": event, "created_timestamp": event + delay, **content}

    values = {
        "pair": [value("pair", {"a": chance.choice(a), "b": chance.choice(b)}) for _ in range(900)],
        "brief": [value("brief", {"a": chance.choice(a)}) for _ in range(500)],
        "fixed": [value("fixed", {"n": chance.choice(n)}) for _ in range(200)],
    }
    for rows in values.values():
        rows += chance.sample(rows, 40)  # exact repetitions
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


def answers(event, view, values):
    """Return every answer that is right: the features of the rows that tie for last, or nothing."""
    keys = KEYS[view]
    t = event["at"] - BEFORE
    nothing = {tuple(None for _ in FEATURES[view])}
    if any(event[key] is None for key in keys):
        return nothing
    seen = [
        row
        for row in values
        if all(row[key] == event[key] for key in keys) and row["event_timestamp"] <= t and row["created_timestamp"] <= t
    ]
    if not seen:
        return nothing
    last = max((row["event_timestamp"], row["created_timestamp"]) for row in seen)
    if TTL[view] is not None and last[0] < t - TTL[view]:
        return nothing
    return {
        tuple(row[feature] for feature in FEATURES[view])
        for row in seen
        if (row["event_timestamp"], row["created_timestamp"]) == last
    }


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
    return tuple(None if pd.isna(row[f"{view}__{name}"]) else row[f"{view}__{name}"] for name in FEATURES[view])


def check(joined, events, values):
    """Compare Feast's answer, by id, with the oracle's."""
    assert len(joined) == len(events)
    for place, event in enumerate(events):
        for view in FEATURES:
            found = answer(joined[f"{event['id']}/{place}"], view)
            assert found in answers(event, view, values[view]), f"{event['id']}, {view}: {found}"


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
