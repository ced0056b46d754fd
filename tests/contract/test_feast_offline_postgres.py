"""Feast's own ``get_historical_features`` and ``materialize`` in the PostgreSQL edition."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.connections import connection
from adin.errors import ConfigError, DataError, ServiceError
from adin.features import hdfs, offline_postgres, online, repo, store
from adin.features.offline import Partition, offline
from adin.problem import problem
from adin.settings import ROOT
from oracle import FEATURES, REFERENCES, WINDOW, T, all_cases, answer, check, entity_rows, last, plain, write
from postgres_server import PostgresServer
from redis_server import RedisServer
from shop_rows import forget

pytestmark = pytest.mark.flow(2, 3)
SCRATCH = Path(__file__).parents[1] / "integration" / "scratch"
PASSWORD = "p@ss:word/%$HOME"
VALUES, EVENTS = all_cases(3)


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="adin-feast-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    server = PostgresServer(folder / "data")
    yield server
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def feast(
    database: PostgresServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Feast in the PostgreSQL edition, with all cases in tables whose sources are Spark's; HDFS is a folder."""
    folder = tmp_path_factory.mktemp("feast")
    password = "p%40ss%3Aword%2F%25%24HOME"
    address = f"postgresql://adin:{password}@127.0.0.1:{database.port}/postgres"
    extra = {"registry": f"sqlite:///{folder / 'registry.db'}", "offline": address}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra=extra).uri)
        patch.setenv("ADIN_FEATURE_REPO", str(SCRATCH / "feature_repo"))
        patch.setenv("ADIN_PROBLEMS", str(SCRATCH / "problems"))
        patch.setenv("ADIN_OFFLINE_STORE", "postgres")
        patch.setattr(hdfs, "list_files", lambda path: [str(found) for found in Path(path).iterdir()])
        patch.setattr(hdfs, "read", lambda path: Path(path).read_bytes())
        forget()
        with offline_postgres.session() as cursor:
            cursor.execute("ALTER DATABASE postgres SET timezone TO 'Asia/Tehran'")
        write(publisher(folder), VALUES, EVENTS, random.Random(1))
        store.apply("adin_scratch")
        yield store.feature_store(offline=True)
    forget()


def publisher(folder: Path) -> Callable[..., None]:
    """Return a function that replaces a feature table by given rows, as an ingest does."""

    def publish(view: repo.View, schema: pa.Schema, rows: list[dict[str, Any]], kinds: dict[str, str]) -> None:
        days = defaultdict(list)
        for row in rows:
            days[f"{row['event_timestamp']:%Y-%m-%d}"].append(row)
        staged = {}
        for day, found in days.items():
            where = folder / uuid4().hex
            where.mkdir()
            pq.write_table(pa.Table.from_pylist(found, schema=schema), where / "part.parquet")
            staged[day] = Partition(str(where), uuid4().hex, len(found), "test")
        offline().publish(view, kinds, staged)

    return publish


def by_id(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in found.to_dict("records")}


def retrieve(feast: Any, rows: Any, references: Any = REFERENCES) -> pd.DataFrame:
    found: pd.DataFrame = feast.get_historical_features(rows, references, full_feature_names=True).to_df()
    return found


@pytest.fixture(scope="module")
def joined(feast: Any) -> dict[str, dict[str, Any]]:
    """The answer for all events."""
    frame = entity_rows(EVENTS)
    before = frame.copy()
    found = retrieve(feast, frame)
    pd.testing.assert_frame_equal(frame, before, obj="the caller's own frame")
    assert list(found.columns) == [*frame.columns, *(each.replace(":", "__") for each in REFERENCES)]
    return by_id(found)


def tables() -> list[str]:
    """Return all tables and views but PostgreSQL's own, also the temporary ones."""
    with offline_postgres.session() as cursor:
        cursor.execute(
            "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relkind IN ('r', 'v', 'm') "
            "AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1"
        )
        return [name for (name,) in cursor.fetchall()]


def left_over(before: list[str]) -> list[str]:
    """Return the tables that are new once the sessions have ended."""
    until(lambda: len(set(tables()) - set(before)), 0, seconds=30)
    return sorted(set(tables()) - set(before))


def test_there_is_one_row_for_each_entity_row_and_each_is_what_the_oracle_finds(joined: Any) -> None:
    assert len(joined) * len(FEATURES) > 15_000
    check(joined, EVENTS, VALUES)


@pytest.mark.parametrize("end", ["", ";\n", " -- all"])
def test_entity_rows_of_a_query_are_answered_as_those_of_a_frame(feast: Any, joined: Any, end: str) -> None:
    query = "SELECT id, a, b, n, at - interval '1 hour' AS event_timestamp FROM adin_scratch.events"
    found = retrieve(feast, query + end).to_dict("records")
    assert len(found) == len(EVENTS)
    expected = {name.rpartition("/")[0]: row for name, row in joined.items()}
    for row in found:
        for view in FEATURES:
            assert answer(row, view) == answer(expected[row["id"]], view)


def test_the_projects_own_training_set_has_the_same_values_ties_too(feast: Any, joined: Any) -> None:
    result = offline().training_set(problem("joins"), WINDOW, "adin_tmp.joins", "test")
    made = [row for _, read in offline().files(result) for row in pq.read_table(io.BytesIO(read())).to_pylist()]
    offline().drop("adin_tmp.joins")
    expected = {name.rpartition("/")[0]: row for name, row in joined.items()}
    assert len(made) > 3000
    for row in made:
        for view in FEATURES:
            assert answer(row, view) == answer(expected[row["id"]], view)


def test_ties_have_one_answer_whatever_the_order_of_the_rows_and_the_features_asked_for(
    feast: Any, joined: Any, tmp_path: Path
) -> None:
    write(publisher(tmp_path), VALUES, EVENTS, random.Random(2))
    again = by_id(retrieve(feast, entity_rows(EVENTS).sample(frac=1, random_state=1), [*REFERENCES[::-1]]))
    alone = by_id(retrieve(feast, entity_rows(EVENTS), ["pair:note"]))
    for name, row in joined.items():
        assert [answer(row, view) for view in FEATURES] == [answer(again[name], view) for view in FEATURES]
        assert answer(row, "pair") == answer(row | alone[name], "pair")


def test_composite_keys_that_read_alike_when_strung_together_are_kept_apart(joined: Any) -> None:
    notes = {name.split("/")[0]: row["pair__note"] for name, row in joined.items()}
    assert (notes["1+12"], notes["11+2"]) == ("1/12", "11/2")


def test_nothing_known_later_is_used(joined: Any) -> None:
    values = {name.split("/")[0]: row["pair__value"] for name, row in joined.items()}
    assert values["late"] == 1.0
    assert 666.0 not in values.values()


NAIVE = T.replace(tzinfo=None)


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"a": ["now"], "b": ["k"], "event_timestamp": [NAIVE]}),
        pd.DataFrame({"a": ["now"], "b": ["k"], "event_timestamp": [NAIVE.isoformat()]}),
        pd.DataFrame({"a": ["now"], "b": ["k"], "event_timestamp": pd.to_datetime([T]).tz_convert("America/New_York")}),
        f"SELECT 'now' AS a, 'k' AS b, timestamp '{NAIVE}' AS event_timestamp",
        f"SELECT 'now' AS a, 'k' AS b, timestamptz '{T}' AS event_timestamp",
        pd.DataFrame({"a": ["now"], "b": ["k"], "asked_at": [NAIVE]}),
    ],
    ids=["naive", "text", "zone", "query, naive", "query", "other name"],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_times_without_a_zone_are_utc_wherever_client_and_server_are(
    feast: Any, rows: Any, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        job = feast.get_historical_features(rows, REFERENCES[:2], full_feature_names=True)
        row = job.to_df().iloc[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (row.iloc[2], row["pair__value"]) == (T, 2.0), "the planted value is of this very instant"
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (T, T)


def test_a_service_with_on_demand_features_is_answered(feast: Any) -> None:
    frame = pd.DataFrame(
        {"a": ["now"], "b": ["k"], "n": [77], "event_timestamp": [T], "factor": [2.0], "prediction_time": [T]}
    )
    row = retrieve(feast, frame, feast.get_feature_service("everything")).iloc[0]
    assert (row["pair__value"], row["scaled__product"], row["scaled__hour"]) == (2.0, 4.0, T.hour)
    alone = retrieve(feast, frame, ["pair:note", "scaled:product"]).iloc[0]
    assert (alone["pair__note"], alone["scaled__product"]) == ("now", 4.0)
    short = feast.get_historical_features(frame, ["pair:value", "pair:note"]).to_df().iloc[0]
    assert (short["value"], short["note"]) == (2.0, "now")


def test_columns_of_every_kind_come_back_and_keys_may_be_of_another_type_than_the_views(feast: Any) -> None:
    frame = pd.DataFrame(
        {
            "a": pd.Categorical(["now", "now", None]),
            "b": [None, None, None],
            "n": [77.0, float("nan"), 1e6],
            "event_timestamp": [T, pd.NaT, T],
            "Some Name": [b"\x00", b"b", None],
            "flag": pd.array([True, None, False], "boolean"),
            "day": [T.date(), None, T.date()],
            "small": pd.array([1, 2, None], "Int8"),
        },
        index=[5, 5, 9],
    )
    found = retrieve(feast, frame, ["fixed:value", "brief:value", "pair:note"])
    assert found["Some Name"].tolist() == [b"\x00", b"b", None]
    assert found["day"].tolist() == [T.date(), None, T.date()]
    assert found["flag"].tolist() == [True, None, False]
    assert found["fixed__value"].fillna(-1).tolist() == [77, -1, -1]
    assert found["pair__note"].isna().all()


def test_no_entity_rows_give_no_rows(feast: Any) -> None:
    found = retrieve(feast, entity_rows(EVENTS).head(0))
    assert (len(found), "pair__value" in found) == (0, True)
    assert len(retrieve(feast, "SELECT * FROM adin_scratch.events WHERE false")) == 0


HIDE, SHOW = "ALTER TABLE adin_scratch.brief RENAME TO hidden", "ALTER TABLE adin_scratch.hidden RENAME TO brief"
KEYLESS = "UPDATE adin_scratch.fixed SET n = NULL WHERE n = 0"


@contextmanager
def changed(change: str, back: str) -> Iterator[None]:
    """Change the database within a block."""
    with offline_postgres.session() as cursor:
        cursor.execute(change)
    try:
        yield
    finally:
        with offline_postgres.session() as cursor:
            cursor.execute(back)


def test_no_table_is_left_whether_it_ends_well_or_not(feast: Any) -> None:
    before = tables()
    jobs = [feast.get_historical_features(entity_rows(EVENTS), REFERENCES, full_feature_names=True) for _ in range(2)]
    assert len(jobs[0].to_df()) == len(jobs[0].to_df()) == len(EVENTS), "a job may be asked again"
    assert left_over(before) == []
    with changed(HIDE, SHOW), pytest.raises(ServiceError, match="brief"):
        jobs[1].to_df()
    assert left_over(before) == []


def test_a_killed_retrieval_leaves_no_table_and_no_session(feast: Any) -> None:
    work = (
        "from adin.features import store\n"
        "from oracle import REFERENCES, all_cases, entity_rows\n"
        "rows = entity_rows(all_cases(3)[1])\n"
        "store.feature_store(offline=True).get_historical_features(rows, REFERENCES, full_feature_names=True).to_df()\n"
    )

    def waiting() -> int:
        with offline_postgres.session() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return int(cursor.fetchone()[0])

    before = tables()
    with offline_postgres.session() as holder:
        holder.execute("LOCK TABLE adin_scratch.pair")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen([sys.executable, "-c", work], env=environment)
        try:
            assert until(waiting, 1, seconds=90), "for the table, with its entity rows sent"
        finally:
            process.kill()
            process.wait()
        assert until(waiting, 0, seconds=30)
        assert left_over(before) == []


def until(count: Callable[[], int], wanted: int, *, seconds: int) -> bool:
    """Wait for a count and tell whether it came."""
    end = time.monotonic() + seconds
    while (found := count()) != wanted and time.monotonic() < end:
        time.sleep(0.2)
    return found == wanted


def test_retrievals_side_by_side_are_what_each_alone_is(feast: Any, joined: Any) -> None:
    frame = entity_rows(EVENTS)
    parts = [frame.iloc[place::4] for place in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: retrieve(feast, part), parts))
    assert [len(each) for each in found] == [len(part) for part in parts]
    for row in pd.concat(found).to_dict("records"):
        assert [answer(row, view) for view in FEATURES] == [answer(joined[row["id"]], view) for view in FEATURES]


def test_what_cannot_be_answered_is_refused_with_what_is_wrong(feast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.errors import FeastEntityDFMissingColumnsError

    frame = entity_rows(EVENTS).head(3)
    with pytest.raises(ConfigError, match="Entity rows are needed"):
        feast.get_historical_features(features=REFERENCES[:2], start_date=T, end_date=T)
    with pytest.raises(FeastEntityDFMissingColumnsError, match="'b'"):
        retrieve(feast, frame.drop(columns="b"))
    with pytest.raises(DataError, match="Column n does not fit its type Int64"):
        retrieve(feast, frame.assign(n=["x", "y", "z"]))
    with pytest.raises(DataError, match="The entity rows hold what no column can"):
        retrieve(feast, frame.assign(a=["x", 1, b"z"]))
    with pytest.raises(DataError, match=r"The query of entity rows is wrong.*nowhere"):
        retrieve(feast, "SELECT * FROM nowhere")
    missing = r"no table adin_scratch\.brief\. Run features__adin_scratch first"
    with changed(HIDE, SHOW), pytest.raises(DataError, match=missing):
        retrieve(feast, frame)


def test_views_with_sources_of_postgresql_are_read_too_and_those_that_map_names_refused(
    joined: Any, tmp_path: Path
) -> None:
    from feast import Entity, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Float64

    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}

    def view(name: str, **source: Any) -> FeatureView:
        found = PostgreSQLSource(name=name, **source, **times)
        return FeatureView(name=name, entities=[a], schema=[Field(name="value", dtype=Float64)], source=found)

    a = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
    table = view("table", table="adin_scratch.brief")
    table.ttl = timedelta(minutes=30)
    conn = connection("feast")
    extra = dict(conn.extra) | {"registry": f"sqlite:///{tmp_path / 'registry.db'}"}
    other = store.feature_store(replace(conn, extra=extra), offline=True)
    mapped = view("mapped", table="adin_scratch.pair", field_mapping={"note": "remark"})
    other.apply([a, table, mapped, view("query", query="SELECT * FROM adin_scratch.brief")])
    found = by_id(retrieve(other, entity_rows(EVENTS), ["table:value"]))
    expected = {name: answer(row, "brief") for name, row in joined.items()}
    assert {name: answer({"brief__value": row["table__value"]}, "brief") for name, row in found.items()} == expected
    with pytest.raises(ConfigError, match="mapped maps keys or columns"):
        retrieve(other, entity_rows(EVENTS), ["mapped:value"])
    with pytest.raises(ConfigError, match="query names no table"):
        retrieve(other, entity_rows(EVENTS), ["query:value"])


def test_stock_materialize_reads_the_edition_by_sdk_and_by_command(
    feast: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = T - timedelta(days=4000), T + timedelta(minutes=1)
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(ROOT / "feature_repo"), "materialize"]
    command += [f"{start:%Y-%m-%dT%H:%M:%S}", f"{end:%Y-%m-%dT%H:%M:%S}", "-v", "fixed"]

    def by_command() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    rows = [row for row in VALUES["fixed"] if row["event_timestamp"] <= end]
    for load in (lambda: feast.materialize(start, end, feature_views=["fixed"]), by_command):
        redis_server.ask("FLUSHALL")
        with changed("UPDATE adin_scratch.fixed SET n = 0 WHERE n IS NULL", KEYLESS):  # Feast's engine knows no nulls
            load()
        found = feast.get_online_features(["fixed:value"], [{"n": n} for n in (1, 2, 3, 77)]).to_dict()
        for n, value in zip(found["n"], found["value"], strict=True):
            assert value == last([row for row in rows if row["n"] == n], "fixed")["value"]


@pytest.mark.parametrize("name", FEATURES)
def test_what_is_online_after_a_load_is_what_training_would_know_now(
    feast: Any, redis_server: RedisServer, name: str
) -> None:
    view = repo.domain("adin_scratch").view(name)
    redis_server.ask("FLUSHALL")
    online.materialize("adin_scratch", name, online.published_window("adin_scratch", name))
    keyed = " AND ".join(f"{key} IS NOT NULL" for key in view.keys)
    entities = f"SELECT DISTINCT {', '.join(view.keys)}, now() AS event_timestamp FROM {view.table} WHERE {keyed}"
    wanted = {feature: f"{name}__{feature}" for feature in FEATURES[name]}
    with offline_postgres.session() as cursor:
        cursor.execute(offline_postgres.known(entities, [(replace(view, ttl=timedelta(0)), wanted)]))
        rows = cursor.fetch_arrow_table().to_pylist()
    keys = [{key: row[key] for key in view.keys} for row in rows]
    found = feast.get_online_features([f"{name}:{feature}" for feature in FEATURES[name]], keys).to_dict()
    assert len(rows) > 2
    for place, row in enumerate(rows):
        own = [each for each in VALUES[name] if all(each[key] == row[key] for key in view.keys)]
        expected = plain(last(own, name)[feature] for feature in FEATURES[name])
        assert answer(row, name) == expected
        assert tuple(found[feature][place] for feature in FEATURES[name]) == expected


def test_of_tied_rows_one_marked_as_deleted_counts(feast: Any) -> None:
    view = replace(repo.domain("adin_scratch").view("pair"), ttl=timedelta(0), deleted="flag")
    entities = "SELECT DISTINCT a, b, now() AS event_timestamp FROM adin_scratch.pair WHERE (a || b) IS NOT NULL"
    with offline_postgres.session() as cursor:
        cursor.execute(offline_postgres.known(entities, [(view, {name: f"pair__{name}" for name in FEATURES["pair"]})]))
        rows = cursor.fetch_arrow_table().to_pylist()
    for row in rows:
        own = [each for each in VALUES["pair"] if (each["a"], each["b"]) == (row["a"], row["b"])]
        assert answer(row, "pair") == plain(last(own, "pair", "flag")[name] for name in FEATURES["pair"])


def test_the_store_is_reached_as_the_connection_says_and_nothing_secret_is_told(
    feast: Any, database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = feast.config.offline_store
    assert (options.host, options.port, options.user, options.database) == (
        "127.0.0.1",
        database.port,
        "adin",
        "postgres",
    )
    assert (options.password, options.sslmode) == (PASSWORD, "prefer")

    def address(to: str) -> None:
        conn = connection("feast")
        monkeypatch.setenv("ADIN_CONN_FEAST", replace(conn, extra=dict(conn.extra) | {"offline": to}).uri)

    for wrong in ("hid%zz", "hid%de"):
        address(f"postgresql://adin:{wrong}@127.0.0.1:{database.port}/postgres")
        with pytest.raises(ConfigError, match="no URL of PostgreSQL") as told:
            store.feature_store(offline=True)
        assert "hid" not in str(told.value)
    address("postgresql://adin:hidden@127.0.0.1/postgres?options=-crole%3Dme")
    with pytest.raises(ConfigError, match="sets options, which Feast's PostgreSQL store cannot") as told:
        store.feature_store(offline=True)
    assert "hidden" not in str(told.value)
    address("postgresql://adin:hidden@127.0.0.1:1/postgres?sslmode=disable")
    with pytest.raises(ServiceError, match="refused") as told:
        retrieve(store.feature_store(offline=True), entity_rows(EVENTS).head(1))
    assert "hidden" not in str(told.value)
    address("")
    with pytest.raises(ConfigError, match="names no offline store"):
        store.feature_store(offline=True)
    assert store.feature_store().config.offline_store.type != options.type
