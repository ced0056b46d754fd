"""The point-in-time join, in Spark over Hive and in PostgreSQL, against an oracle that looks at every row."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from math import isnan
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from adin.errors import DataError
from adin.features import hdfs, hive, repo
from adin.features.offline import offline
from adin.problem import problem
from adin.settings import settings
from adin.window import Window
from oracle import BEFORE, FEATURES, KEYS, WAITED, WINDOW, all_cases, right, weight, write

pytestmark = [pytest.mark.flow(2, 3, 6), pytest.mark.usefixtures("scratch")]


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
    return all_cases(7)


def _retrieve(table, window=WINDOW):
    key, store = f"test-{uuid4().hex}", offline()
    result = store.training_set(problem("joins"), window, table, key)
    files = {path: read() for path, read in store.files(result)}
    store.forget(key)
    return result, files


def _tables(files):
    """Return each file's rows in their order, by split and part. Bytes differ: Parquet's footer has unordered sets.

    Values are their weights, for NaN differs from itself.
    """
    return {
        (path.split("/")[-2], path.split("/")[-1][:10]): [
            {name: weight(value) for name, value in row.items()}
            for row in pq.ParquetFile(io.BytesIO(content)).read().to_pylist()
        ]
        for path, content in files.items()
    }


@pytest.fixture(scope="module")
def joined(cases, write_features):
    """The training set of all cases: result, rows, files."""
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    write(write_features, *cases, random.Random(1))
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
        value = row["pair__value"]
        expected = None if value is None or isnan(value) else value * row["factor"]
        assert row["scaled__product"] == expected
        assert row["scaled__hour"] == row["event_timestamp"].hour
        assert row["event_timestamp"] == row["at"] - BEFORE


def test_columns_are_the_services_in_its_order(joined):
    service = repo.service("adin_scratch", "everything")
    columns = [name for name in joined["result"]["columns"] if "__" in name]
    assert columns == list(service.columns)


@pytest.mark.parametrize("view", KEYS)
def test_every_row_is_what_an_oracle_that_looks_at_all_rows_finds(joined, cases, view):
    answered = 0
    assert len(joined["rows"]) * len(KEYS) > 10_000
    for row in joined["rows"]:
        answer = tuple(row[f"{view}__{feature}"] for feature in FEATURES[view])
        wanted = right(row, view, cases[0][view])
        assert [*map(weight, answer)] == [*map(weight, wanted)], f"{row['id']}: {answer} for {wanted}"
        answered += answer != tuple(None for _ in answer)
    assert answered > 100


def test_ties_have_one_answer_whatever_the_order_of_the_files_and_a_killed_jobs_files_do_no_harm(
    joined, cases, edition, write_features
):
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    if edition == "hive":
        hdfs.make(f"{hive.table_folder(table)}/split=train")
        hdfs.write(f"{hive.table_folder(table)}/split=train/part-of-a-killed-job.parquet", b"half")
    write(write_features, *cases, random.Random(2))
    _, files = _retrieve(table)
    offline().drop(table)
    assert _tables(files) == _tables(joined["files"])


def test_a_view_too_large_for_memory_is_joined_by_sorting_with_the_same_answer(joined, edition, monkeypatch):
    if edition == "postgres":
        pytest.skip("PostgreSQL chooses for itself")
    monkeypatch.setenv("ADIN_JOIN_MEMORY_MB", "0")
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    _, files = _retrieve(table)
    offline().drop(table)
    assert _tables(files) == _tables(joined["files"])


def test_training_sets_made_side_by_side_are_what_one_alone_is(joined):
    tables = [f"adin_tmp.joins_{uuid4().hex[:8]}" for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        made = [files for _, files in pool.map(_retrieve, tables)]
    for table in tables:
        offline().drop(table)
    assert [_tables(files) for files in made] == [_tables(joined["files"])] * 2


def test_days_that_no_event_can_see_are_not_read(joined, edition):
    if edition == "postgres":
        pytest.skip("PostgreSQL keeps one table; its index does it")
    part = hive.partitions(repo.domain("adin_scratch").view("brief").table)["2021-01-27"]
    file = next(name for name in hdfs.list_files(part.location) if name.endswith(".parquet"))
    kept = hdfs.read(file)
    hdfs.write(file, b"no parquet")
    table = f"adin_tmp.joins_{uuid4().hex[:8]}"
    try:
        result, _ = _retrieve(table, Window.parse("2021-03-01", "2021-03-31"))
    finally:
        hdfs.write(file, kept)
        offline().drop(table)
    assert sum(result["rows"].values()) > 100


def test_a_window_without_labels_is_refused_with_its_remedy(joined):
    with pytest.raises(DataError, match=r"adin_scratch\.events has no labelled row .* Run the features DAG"):
        _retrieve("adin_tmp.joins_none", Window.parse("2020-01-01", "2020-02-01"))
    assert "joins_none" not in offline().temporary()


def test_the_tests_agree_with_the_problem_file(scratch):
    spec = problem("joins")
    assert (spec.predict_before, spec.label.known_after) == (BEFORE, WAITED)
