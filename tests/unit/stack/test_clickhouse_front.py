from __future__ import annotations

import pytest
from adin.stack.clickhouse_front import QueryError, application, read
from starlette.testclient import TestClient


def test_rows_after_an_insert_are_data_byte_for_byte() -> None:
    rows = b"\n\x0a\x00\xff FORMAT Native\n"
    for params, body in (
        ({}, b"INSERT INTO t (a, `b c`) FORMAT Native\n" + rows),
        ({"query": "INSERT INTO t (a, `b c`) FORMAT Native"}, rows),
    ):
        statement = read(params, {}, body)
        assert (statement.text, statement.format, statement.data) == ("INSERT INTO t (a, `b c`)", "Native", rows)


def test_an_insert_with_rows_of_its_own_is_one_statement() -> None:
    for text in ("INSERT INTO t VALUES (1)", "INSERT INTO t SELECT * FROM u", "insert into t select 1 format Null"):
        statement = read({}, {}, text.encode())
        assert (statement.text, statement.data) == (text, None)


def test_the_format_is_that_of_the_statement_else_of_the_url_else_of_the_server() -> None:
    assert read({"default_format": "CSV"}, {}, b"SELECT 1 FORMAT JSON").format == "JSON"
    assert read({"default_format": "CSV"}, {}, b"SELECT 1").format == "CSV"
    assert read({}, {}, b"SELECT 1").format == "TabSeparated"


def test_url_parameters_are_settings_unless_the_interface_means_something_else() -> None:
    params = {"query": "SELECT {x:Int8}", "param_x": "1", "max_threads": "2", "session_id": "s", "query_id": "q"}
    statement = read(params, {}, b"")
    assert statement.settings == {"param_x": "1", "max_threads": "2"}
    assert statement.query_id == "q"


def test_a_setting_cannot_carry_a_statement() -> None:
    assert read({"query": "SELECT 1", "a=1; DROP": "x"}, {}, b"").settings == {}


def test_no_statement_is_an_error_of_the_user() -> None:
    with pytest.raises(QueryError) as caught:
        read({}, {}, b" ")
    assert caught.value.code == 62


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The front without an engine: what is asked here never gets to one."""
    monkeypatch.setattr("adin.stack.clickhouse_front.Engine", lambda _: None)
    monkeypatch.setenv("ADIN_CLICKHOUSE_PASSWORD", "word")
    return TestClient(application(""))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("authorization", ["", "Basic a", "Basic \xe9", "Basic YWRpbjp3cm9uZw==", "Bearer word"])
def test_whoever_does_not_show_the_password_is_refused_however_odd_the_header(
    web: TestClient, authorization: str
) -> None:
    answer = web.post("/", content=b"SELECT 1", headers={"Authorization": authorization.encode("latin-1")})
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_body_that_cannot_be_unpacked_is_named(web: TestClient, encoding: str) -> None:
    answer = web.post("/", content=b"SELECT 1", auth=("adin", "word"), headers={"Content-Encoding": encoding})
    assert answer.headers["X-ClickHouse-Exception-Code"] == "354"
    assert f"The body is no {encoding}" in answer.text
