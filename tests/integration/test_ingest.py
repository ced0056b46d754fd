"""Raw days in HDFS to published Hive partitions, through real Spark: what is accepted, what is refused, and how."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin import connections
from adin.connections import connection
from adin.errors import DataError
from adin.features import hdfs, hive, inputs, jobs, publish, pushed, repo
from adin.features.push.check import Target
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.window import Window
from airflow_connections import offer

from operators.spark_hive import SparkHiveIngestOperator

pytestmark = [pytest.mark.flow(1, 2), pytest.mark.usefixtures("scratch", "table")]

DAY = datetime(2021, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
COLUMNS = {
    "sensor": pa.string(),
    "value": pa.float64(),
    "at": pa.timestamp("us", "UTC"),
    "recorded_at": pa.timestamp("us", "UTC"),
}


def put(day: int, rows: list[tuple], columns=None, *, success=True, content=None):
    """Write one raw day: rows of (sensor, value, minute of the day)."""
    start = DAY + timedelta(days=day)
    folder = repo.domain("meters").folder("readings", f"{start:%Y-%m-%d}")
    hdfs.delete(folder)
    hdfs.make(folder)
    table = {
        "sensor": [row[0] for row in rows],
        "value": [row[1] for row in rows],
        "at": [start + row[2] * MINUTE for row in rows],
        "recorded_at": [start + row[2] * MINUTE for row in rows],
        "unit": ["C" for _ in rows],
    }
    columns = COLUMNS if columns is None else columns
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(table[name]).cast(kind) for name, kind in columns.items()}), buffer)
    hdfs.write(f"{folder}/part-0.parquet", buffer.getvalue() if content is None else content)
    if success:
        hdfs.write(f"{folder}/_SUCCESS", b"")
    return folder


def put_good_days():
    put(0, [("a", 1.0, 0), ("a", 3.0, 1430), ("b", 10.0, 1430)])
    put(1, [("a", 5.0, 10), ("a", 7.0, 600)])
    put(2, [])
    put(3, [("a", 9.0, 0)])


def ingest(first: int, last: int, key: str | None = None):
    start, end = (f"{DAY + timedelta(days=day):%Y-%m-%d}" for day in (first, last))
    key = key or f"test-{uuid4().hex}"
    return jobs.run("ingest", key=key, arguments={"domain": "meters", "view": "hourly", "window": f"{start}/{end}"})


def rows(day: int):
    part = hive.partitions("meters.hourly")[f"{DAY + timedelta(days=day):%Y-%m-%d}"]
    found = [
        pq.read_table(io.BytesIO(hdfs.read(path))).to_pylist()
        for path in hdfs.list_files(part.location)
        if path.endswith(".parquet")
    ]
    return sorted(
        ((r["sensor"], r["event_timestamp"], r["mean"], r["readings"]) for rows in found for r in rows),
    )


@pytest.fixture
def table():
    for name in ("readings", pushed.table("hourly")):
        hdfs.delete(repo.domain("meters").table_folder(name))
    hive.drop_table("meters.hourly")
    yield
    hive.drop_table("meters.hourly")
    hdfs.delete(hive.table_folder("meters.hourly"))


def test_one_window_and_its_days_one_by_one_give_the_same_partitions_and_a_second_run_changes_nothing():
    put_good_days()
    whole = ingest(0, 4)
    assert hive.partitions("meters.hourly") == {}, "nothing is visible before it is published"
    facts = publish.publish(whole)
    assert (facts["rows"], facts["new"], facts["changed"]) == (6, 4, 0)
    midnight = DAY + timedelta(days=1)
    assert rows(1) == [
        ("a", midnight + 10 * MINUTE, 4.0, 2),  # looks back over midnight
        ("a", midnight + 600 * MINUTE, 7.0, 1),
    ]
    assert rows(2) == []
    before = hive.partitions("meters.hourly")
    assert {day[-2:]: part.rows for day, part in before.items()} == {"01": 3, "02": 2, "03": 0, "04": 1}

    alone = ingest(1, 2)
    assert alone["partitions"]["2021-05-02"]["fingerprint"] == before["2021-05-02"].fingerprint
    facts = publish.publish(alone)
    assert (facts["new"], facts["changed"]) == (0, 0)
    assert hive.partitions("meters.hourly") == before
    assert not [path for path in hdfs.list_files(alone["location"]) if path.endswith(".parquet")]


def test_a_corrected_raw_day_changes_only_the_days_it_touches():
    put_good_days()
    publish.publish(ingest(0, 4))
    before = hive.partitions("meters.hourly")
    put(1, [("a", 5.0, 10), ("a", 8.0, 600)])
    facts = publish.publish(ingest(0, 4))
    assert (facts["new"], facts["changed"]) == (0, 1)
    after = hive.partitions("meters.hourly")
    assert [day for day in before if before[day] != after[day]] == ["2021-05-02"]
    assert rows(1)[-1][2] == 8.0


def test_a_complete_window_is_made_again_only_if_its_inputs_changed_or_somebody_asks(monkeypatch):
    monkeypatch.setattr(connections, "_CHOSEN", {})
    offer(monkeypatch, connection("spark"), connection("feast"))

    def run(**more):
        operator = SparkHiveIngestOperator(task_id="t", domain="meters", view="hourly", **more)
        task = SimpleNamespace(dag_id="d", run_id=uuid4().hex, task_id="t", map_index=-1, xcom_push=lambda **_: None)
        return operator.execute({"ti": task})

    window = f"{DAY:%Y-%m-%d}/{DAY + timedelta(days=4):%Y-%m-%d}"
    put_good_days()
    first = run(window=window)
    assert first["application_id"]
    publish.publish(first)
    before = hive.partitions("meters.hourly")
    again = run(window=window)
    assert (again["application_id"], again["unchanged"]) == ("", True)
    assert again["partitions"] == first["partitions"]
    publish.gate([again])
    facts = publish.publish(again)
    assert (facts["rows"], facts["new"], facts["changed"]) == (6, 0, 0)
    assert hive.partitions("meters.hourly") == before
    assert run(window=window, renew="1")["application_id"]

    put(1, [("a", 5.0, 10), ("a", 8.0, 600)])
    third = f"{DAY + timedelta(days=2):%Y-%m-%d}/{DAY + timedelta(days=3):%Y-%m-%d}"
    fourth = f"{DAY + timedelta(days=3):%Y-%m-%d}/{DAY + timedelta(days=4):%Y-%m-%d}"
    assert run(window=third)["application_id"], "the day looks back on one that changed"
    assert run(window=fourth)["unchanged"]
    hdfs.delete(repo.domain("meters").folder("readings", "2021-05-04"))
    with pytest.raises(DataError, match="missing"):
        run(window=fourth)


def push(*values: tuple, created: datetime) -> pa.Table:
    """Rows of the table as the push API keeps them: (sensor, mean, minute of the first day)."""
    return pa.table(
        {
            "sensor": [value[0] for value in values],
            "mean": [value[1] for value in values],
            "readings": pa.array([1 for _ in values], pa.int32()),
            "gone": ["a column that is no more" for _ in values],
            "event_timestamp": pa.array([DAY + value[2] * MINUTE for value in values], COLUMNS["at"]),
            "created_timestamp": pa.array([created for _ in values], COLUMNS["at"]),
        }
    )


def test_pushed_rows_are_in_the_table_and_of_the_same_moment_the_one_known_last_stays():
    domain, window = repo.domain("meters"), Window(DAY, DAY + timedelta(days=4))
    view = domain.view("hourly")
    put_good_days()
    publish.publish(ingest(0, 4))
    before = rows(1)
    assert inputs.unchanged(domain, "hourly", window)
    known = push(("c", 50.0, 5), ("a", 99.0, 0), created=DAY + timedelta(days=9))
    for _ in range(2):
        pushed.land(domain, view, known)
    pushed.land(domain, view, push(("b", -9.0, 1430), created=DAY - timedelta(days=9)))  # known before the raw data was
    assert not inputs.unchanged(domain, "hourly", window)
    facts = publish.publish(ingest(0, 4))
    assert (facts["rows"], facts["changed"]) == (7, 1)
    assert rows(0) == [
        ("a", DAY, 99.0, 1),
        ("a", DAY + 1430 * MINUTE, 3.0, 1),
        ("b", DAY + 1430 * MINUTE, 10.0, 1),
        ("c", DAY + 5 * MINUTE, 50.0, 1),
    ]
    assert rows(1) == before
    assert inputs.unchanged(domain, "hourly", window)


def test_what_the_push_service_kept_is_landed_below_the_days_of_its_events():
    domain = repo.domain("meters")
    state = State(connection("push"))
    pusher = Pusher(state)
    pusher.targets["hourly"] = Target("meters", domain.view("hourly"), {}, "", offline=True)
    sent = push(("c", 1.0, 5), ("c", 2.0, 1445), created=DAY)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, sent.schema) as writer:
        writer.write_table(sent)
    state.keep("hourly", bytes(sink.getvalue()))
    while pusher.land():
        pass
    for day, mean in ((0, 1.0), (1, 2.0)):
        (path,) = pushed.files(domain, "hourly", f"{DAY + timedelta(days=day):%Y-%m-%d}")
        assert pq.read_table(io.BytesIO(hdfs.read(path)))["mean"].to_pylist() == [mean]


def test_a_retried_job_returns_the_result_it_had():
    put_good_days()
    key = f"test-{uuid4().hex}"
    first = ingest(0, 1, key)
    hdfs.delete(repo.domain("meters").folder("readings", "2021-05-01"))  # a second run would fail
    assert ingest(0, 1, key) == first


@pytest.mark.parametrize(("first", "missing"), [(0, "2021-05-02"), (2, "2021-05-02")], ids=["window", "lookback"])
def test_a_missing_raw_day_is_named_with_its_remedy(first, missing):
    put_good_days()
    folder = put(1, [("a", 5.0, 10)], success=False)
    assert folder.endswith(missing)
    with pytest.raises(DataError, match=rf"{folder} is missing or has no _SUCCESS .* Load it"):
        ingest(first, 4)
    assert hive.partitions("meters.hourly") == {}


def test_a_changed_raw_schema_names_table_day_and_column():
    put_good_days()
    put(1, [("a", 5.0, 10)], {name: kind for name, kind in COLUMNS.items() if name != "value"})
    put(2, [("a", 5.0, 10)], COLUMNS | {"unit": pa.string()})
    put(3, [("a", 5.0, 10)], COLUMNS | {"value": pa.string()})
    with pytest.raises(DataError) as error:
        ingest(0, 4)
    told = str(error.value)
    assert "raw table meters.readings has changed" in told
    assert "day 2021-05-02, column value: declared double, found absent" in told
    assert "day 2021-05-03, column unit: declared absent, found string" in told
    assert "day 2021-05-04, column value: declared double, found string" in told
    assert "raw.yaml" in told


def test_a_corrupt_raw_file_is_named():
    put_good_days()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sensor": ["a"]}), buffer)
    folder = put(1, [], content=buffer.getvalue()[:-20])
    with pytest.raises(DataError, match=f"{folder}/part-0.parquet cannot be read as Parquet"):
        ingest(0, 4)


def test_a_raw_file_damaged_inside_is_named():
    put_good_days()
    folder = put(1, [("a", float(n), n) for n in range(1000)])
    good = hdfs.read(f"{folder}/part-0.parquet")
    hdfs.write(f"{folder}/part-0.parquet", good[:4] + b"\xff" * 3000 + good[3004:])
    with pytest.raises(DataError, match=f"{folder}/part-0.parquet cannot be read"):
        ingest(0, 4)


def test_broken_rules_are_counted_with_sample_keys_and_nothing_is_published():
    put(0, [("hot", 1000.0, 5), ("twice", 1.0, 7), ("twice", 1.0, 7), ("good", 1.0, 9)])
    result = ingest(0, 1)
    with pytest.raises(DataError) as error:
        publish.gate([result])
    told = str(error.value)
    assert "1 rows: mean outside -50 .. 150 (days 2021-05-01; e.g. hot|2021-05-01 00:05:00)" in told
    assert "1 rows: sensor, event_timestamp not unique" in told
    assert "twice|2021-05-01 00:07:00" in told
    assert "good" not in told
    put(0, [("hot", 100.0, 5), ("twice", 1.0, 7), ("good", 1.0, 9)])
    publish.gate([ingest(0, 1, result["key"])])  # cleared after the data was corrected, it works anew
    assert hive.partitions("meters.hourly") == {}
