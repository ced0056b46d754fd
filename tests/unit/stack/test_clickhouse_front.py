from __future__ import annotations

import pytest
from adin.stack.clickhouse_front import QueryError, read


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
