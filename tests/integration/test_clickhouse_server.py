"""The HTTP front over the ClickHouse engine, driven by the ordinary client with its defaults."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import clickhouse_connect
import httpx
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from adin.connections import connection
from clickhouse_connect.driver.exceptions import DatabaseError
from waiting import until

SLOW = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"


def _client(**options: Any) -> Any:
    made = connection("clickhouse")
    return clickhouse_connect.get_client(
        host=made.host,
        port=made.port or 0,
        username=made.login,
        password=options.pop("password", made.password),
        **options,
    )


@pytest.fixture
def client() -> Iterator[Any]:
    """A client, and a database which is dropped at the end."""
    client = _client()
    client.command("CREATE DATABASE front_test")
    yield client
    client.command("DROP DATABASE front_test")


@pytest.mark.flow(13)
@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_a_frame_comes_back_as_it_was_inserted(client: Any, compress: bool | str) -> None:
    client.command(
        "CREATE TABLE front_test.t (n Int64, s Nullable(String), at DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY n"
    )
    at = pd.date_range("2013-01-01", periods=1000, freq="s", tz="UTC").astype("datetime64[us, UTC]")
    frame = pd.DataFrame({"n": range(1000), "s": ["é", None] * 500, "at": at})
    other = _client(compress=compress)
    assert other.insert_df("front_test.t", frame).written_rows == 1000
    assert other.insert_arrow("front_test.t", pyarrow.table({"n": [-1], "s": ["x"], "at": at[:1]})).written_rows == 1
    found = other.query("SELECT n, s, toUnixTimestamp64Micro(at) FROM front_test.t WHERE n >= 0 ORDER BY n").result_rows
    assert found == list(zip(frame["n"], frame["s"], at.as_unit("us").asi8, strict=True))
    assert other.query_df("SELECT * FROM front_test.t").shape == (1001, 3)
    assert other.query_arrow("SELECT * FROM front_test.t").num_rows == 1001


@pytest.mark.flow(13)
@pytest.mark.parametrize(
    ("statement", "code", "status"),
    [
        ("SELECT * FROM nowhere", 60, 404),
        ("SELECT (1", 62, 400),
        ("SELECT throwIf(1)", 395, 500),
        ("SELECT nofun(1)", 46, 404),
    ],
)
def test_an_error_carries_the_code_and_status_of_the_real_server(statement: str, code: int, status: int) -> None:
    made = connection("clickhouse")
    answer = httpx.post(made.url, content=statement, auth=(made.login, made.password))
    assert (answer.headers["X-ClickHouse-Exception-Code"], answer.status_code) == (str(code), status)
    with pytest.raises(DatabaseError, match=f"code: {code}"):
        _client().query(statement)


@pytest.mark.flow(13)
def test_a_wrong_password_is_refused() -> None:
    with pytest.raises(DatabaseError, match="516"):
        _client(password="wrong")
    assert httpx.post(connection("clickhouse").url, content="SELECT 1").status_code == 403


@pytest.mark.flow(13)
def test_settings_and_parameters_hold_for_their_statement_only(client: Any) -> None:
    asked = "SELECT getSetting('max_threads') + {x:Int32}"
    assert client.query(asked, parameters={"x": 40}, settings={"max_threads": 2}).result_rows == [(42,)]
    assert client.query("SELECT getSetting('max_block_size')").result_rows == [(65409,)]


@pytest.mark.flow(13)
def test_a_running_statement_is_killed_by_the_id_its_client_gave_and_the_id_is_unique(client: Any) -> None:
    said: list[str] = []

    def run() -> None:
        try:
            _client().query(SLOW, settings={"query_id": "slow", "max_threads": 1})
        except DatabaseError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: client.query("SELECT 1 FROM system.processes WHERE Settings['log_comment'] = 'slow'").result_rows)
    with pytest.raises(DatabaseError, match="already running"):
        client.query("SELECT 1", settings={"query_id": "slow"})
    client.command("KILL QUERY WHERE query_id = 'slow' SYNC")
    thread.join(30)
    assert not thread.is_alive()
    assert "394" in said[0]


@pytest.mark.flow(13)
def test_clients_work_side_by_side_and_no_row_is_lost(client: Any) -> None:
    client.command("CREATE TABLE front_test.t (who Int32, n Int32) ENGINE = MergeTree ORDER BY who")

    def work(who: int) -> None:
        own = _client()
        for n in range(5):
            own.insert("front_test.t", [[who, n]], column_names=["who", "n"])
            assert own.query("SELECT count() FROM front_test.t WHERE who = {w:Int32}", {"w": who}).result_rows == [
                (n + 1,)
            ]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert client.query("SELECT count(), uniqExact(who, n) FROM front_test.t").result_rows == [(40, 40)]


@pytest.mark.flow(13)
def test_the_engine_reads_a_lakefs_commit_through_its_s3_gateway(client: Any) -> None:
    import lakefs_sdk
    from lakefs_sdk.client import LakeFSClient

    made = connection("lakefs")
    lake = LakeFSClient(
        lakefs_sdk.Configuration(host=f"{made.url}/api/v1", username=made.login, password=made.password)
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"n": list(range(10))}), file)
    branch = f"front-test-{int(time.time() * 1000)}"
    lake.branches_api.create_branch(made.schema, lakefs_sdk.BranchCreation(name=branch, source="main"))
    try:
        lake.objects_api.upload_object(made.schema, branch, "ten.parquet", content=file.getvalue())
        commit = lake.commits_api.commit(made.schema, branch, lakefs_sdk.CommitCreation(message="Ten rows")).id
        source = f"s3('{made.url}/{made.schema}/{commit}/ten.parquet', '{made.login}', '{made.password}', 'Parquet')"
        assert client.query(f"SELECT count(), sum(n) FROM {source}").result_rows == [(10, 45)]
    finally:
        lake.branches_api.delete_branch(made.schema, branch)
