"""The point-in-time join, in Spark over Hive and in PostgreSQL, against an oracle that looks at every row."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.errors import DataError
from adin.features import hdfs, hive, repo
from adin.features.offline import offline
from adin.problem import problem
from adin.settings import settings
from adin.window import Window

pytestmark = [pytest.mark.flow(2, 3, 6), pytest.mark.usefixtures("scratch")]

WINDOW = Window.parse("2021-01-01", "2021-03-31")
BEFORE, WAITED = timedelta(hours=1), timedelta(hours=2)
TTL = {"pair": timedelta(hours=6), "brief": timedelta(minutes=30), "fixed": None}
KEYS = {"pair": ("a", "b"), "brief": ("a",), "fixed": ("n",)}
FEATURES = {"pair": ("value", "note"), "brief": ("value",), "fixed": ("value",)}
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
        for number in range(3600)
    ]
    return values, events


def oracle(event, view, values):
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


@pytest.fixture(scope="module", params=["hive", "postgres"])
def edition(request, scratch):
    """The offline store's edition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_OFFLINE_STORE", request.param)
        settings.cache_clear()
        yield request.param
    settings.cache_clear()


@pytest.fixture(scope="module")
def cases(edition):
    values, events = random_cases(random.Random(7))
    values["pair"] += planted_values()
    old = datetime(2019, 5, 5, tzinfo=UTC)
    values["fixed"].append({"n": 77, "event_timestamp": old, "created_timestamp": old, "value": 77})
    return values, events + planted_events()


def _write(write_features, values, events, chance):
    """Write all tables, rows in an order of chance."""
    for view, rows in {**values, "events": events}.items():
        kinds = {name: kind for name, kind in KINDS.items() if name in rows[0]}
        if view == "fixed":
            kinds["value"] = "bigint"
        kinds |= {"event_timestamp": "timestamp", "created_timestamp": "timestamp"}
        schema = pa.schema([(name, ARROW.get(kind, pa.timestamp("us", "UTC"))) for name, kind in kinds.items()])
        write_features(repo.domain("joins").view(view), schema, chance.sample(rows, len(rows)), kinds)


def _retrieve(table, window=WINDOW):
    key, store = f"test-{uuid4().hex}", offline()
    result = store.training_set(problem("joins"), window, table, key)
    files = {path: read() for path, read in store.files(result)}
    store.forget(key)
    return result, files


def _tables(files):
    """Return each file's rows in their order, by split and part. Bytes differ: Parquet's footer has unordered sets."""
    return {
        (path.split("/")[-2], path.split("/")[-1][:10]): pq.ParquetFile(io.BytesIO(content)).read().to_pylist()
        for path, content in files.items()
    }


@pytest.fixture(scope="module")
def joined(cases, write_features):
    """The training set of all cases: result, rows, files."""
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    _write(write_features, *cases, random.Random(1))
    result, files = _retrieve(table)
    rows = []
    for path, content in files.items():
        split = next(part.removeprefix("split=") for part in path.split("/") if part.startswith("split="))
        rows += [row | {"split": split} for row in pq.read_table(io.BytesIO(content)).to_pylist()]
    yield {"table": table, "result": result, "rows": rows, "files": files}
    offline().drop(table)


@pytest.fixture(scope="module")
def planted(joined):
    return {row["id"]: row for row in joined["rows"] if not row["id"].startswith("random-")}


def test_a_value_created_after_the_prediction_time_is_never_used(planted):
    assert planted["late"]["pair__value"] == 1.0
    assert planted["corrected-late"]["pair__value"] == 4.0
    assert planted["future"]["pair__value"] is None
    assert 666.0 not in {row["pair__value"] for row in planted.values()}


def test_a_value_of_the_prediction_time_itself_is_used(planted):
    assert planted["now"]["pair__value"] == 2.0


def test_a_correction_known_in_time_replaces_what_it_corrects(planted):
    assert planted["corrected"]["pair__value"] == 3.0


def test_a_late_arrival_does_not_replace_a_newer_event(planted):
    assert planted["straggler"]["pair__value"] == 5.0


def test_composite_keys_that_read_alike_when_strung_together_are_kept_apart(planted):
    assert (planted["1+12"]["pair__note"], planted["11+2"]["pair__note"]) == ("1/12", "11/2")


def test_a_value_lives_exactly_as_long_as_its_ttl(planted):
    assert planted["ttl-edge"]["pair__value"] == 6.0
    assert planted["ttl-over"]["pair__value"] is None


def test_a_ttl_of_zero_never_ends(planted):
    assert planted["static"]["fixed__value"] == 77


def test_a_row_without_a_key_is_kept_and_gets_no_features(planted):
    for name in ("no-a", "no-b", "no-keys"):
        assert planted[name]["pair__value"] is None
        assert planted[name]["pair__note"] is None


def test_a_value_known_to_be_null_hides_the_one_before(planted):
    assert planted["null-value"]["pair__value"] is None
    assert planted["null-value"]["pair__note"] == "null-value"


def test_repeated_feature_rows_never_repeat_an_event_and_repeated_events_stay(joined):
    found = [row["id"] for row in joined["rows"]]
    assert found.count("twice") == 1
    assert found.count("repeated") == 2


def test_events_without_a_label_are_dropped_and_counted(joined, cases):
    known = [
        event for event in cases[1] if event["at"] <= WINDOW.end - WAITED and event["created_timestamp"] < WINDOW.end
    ]
    labelled = [event for event in known if event["late"] is not None]
    assert sorted(row["id"] for row in joined["rows"]) == sorted(event["id"] for event in labelled)
    assert joined["result"]["dropped_unlabelled"] == len(known) - len(labelled) > 0
    assert sum(joined["result"]["rows"].values()) == len(labelled)


def test_only_labels_known_within_the_window_are_learnt_from(planted):
    assert "just-known" in planted
    assert not {"unlabelled", "told-too-late", "too-fresh"} & planted.keys()


def test_splits_are_counted_back_from_the_windows_end_also_where_a_month_is_short(joined, planted):
    assert planted["last-of-train"]["split"] == "train"
    assert planted["first-of-validate"]["split"] == "validate"
    assert planted["first-of-test"]["split"] == "test"
    assert all(joined["result"]["rows"].values())


def test_on_demand_features_see_request_values_and_the_prediction_time(joined):
    for row in joined["rows"]:
        expected = None if row["pair__value"] is None else row["pair__value"] * row["factor"]
        assert row["scaled__product"] == expected
        assert row["scaled__hour"] == row["event_timestamp"].hour
        assert row["event_timestamp"] == row["at"] - BEFORE


def test_columns_are_the_services_in_its_order(joined):
    service = repo.service("joins", "everything")
    columns = [name for name in joined["result"]["columns"] if "__" in name]
    assert columns == list(service.columns)


@pytest.mark.parametrize("view", KEYS)
def test_every_row_is_what_an_oracle_that_looks_at_all_rows_finds(joined, cases, view):
    answered = 0
    for row in joined["rows"]:
        answer = tuple(row[f"{view}__{feature}"] for feature in FEATURES[view])
        right = oracle(row, view, cases[0][view])
        assert answer in right, f"{row['id']}: {answer} is none of {right}"
        answered += answer != tuple(None for _ in answer)
    assert answered > 100


def test_ties_have_one_answer_whatever_the_order_of_the_files_and_a_killed_jobs_files_do_no_harm(
    joined, cases, edition, write_features
):
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    if edition == "hive":
        hdfs.make(f"{hive.table_folder(table)}/split=train")
        hdfs.write(f"{hive.table_folder(table)}/split=train/part-of-a-killed-job.parquet", b"half")
    _write(write_features, *cases, random.Random(2))
    _, files = _retrieve(table)
    offline().drop(table)
    assert _tables(files) == _tables(joined["files"])


def test_a_window_without_labels_is_refused_with_its_remedy(joined):
    with pytest.raises(DataError, match=r"joins\.events has no labelled row .* Run the features DAG"):
        _retrieve("adin_tmp.joins_none", Window.parse("2020-01-01", "2020-02-01"))
    assert "joins_none" not in offline().temporary()


def test_the_tests_agree_with_the_problem_file(scratch):
    spec = problem("joins")
    assert (spec.predict_before, spec.label.known_after) == (BEFORE, WAITED)
