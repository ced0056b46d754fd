"""Quality rules: what a pandera schema compiles to, and that ClickHouse finds with it what pandera finds."""

import json

import pandera.pandas as pa
import pytest
from adin.errors import ConfigError
from adin.features import quality, repo

pytestmark = pytest.mark.flow(15)
SCHEMA = pa.DataFrameSchema(
    {
        "name": pa.Column(str, pa.Check.isin(["it's", "b"])),
        "share": pa.Column(float, pa.Check.in_range(0, 1), nullable=True),
        "count": pa.Column(int, [pa.Check.ge(1), pa.Check.lt(10)]),
    },
    unique=["name", "count"],
)


@pytest.fixture(scope="module")
def clickhouse():
    from chdb import session

    made = session.Session()
    made.query(
        "CREATE TABLE t (day String, name Nullable(String), share Nullable(Float64), count Nullable(Int32)) "
        "ENGINE = Memory"
    )
    made.query(
        "INSERT INTO t VALUES ('d1', 'it\\'s', 0.5, 1), ('d1', 'b', NULL, 2), ('d1', 'c', 1.5, 3), "
        "('d2', 'b', 1, 10), ('d2', NULL, 0, NULL), ('d2', 'b', -1, 0), ('d3', 'b', 1, 5), ('d3', 'b', 1, 5)"
    )
    return made


def _rows(clickhouse, query):
    return json.loads(str(clickhouse.query(query, "JSON")))["data"]


def test_one_query_counts_every_broken_rule_with_days_and_sample_keys(clickhouse):
    rules = quality.compile_schema(SCHEMA)
    rows = _rows(clickhouse, quality.query("t", rules, ["name", "count"]))
    for row in rows:
        row.update({name: int(value) for name, value in row.items() if name.startswith("broken_")})
    found = {
        entry["rule"]: (entry["rows"], entry["days"], entry["sample"]) for entry in quality.violations(rules, rows)
    }
    assert found["name is null"] == (1, ["d2"], ["null|null"])
    assert found["name not one of it's, b"] == (1, ["d1"], ["c|3"])
    assert found["share outside 0 .. 1"] == (2, ["d1", "d2"], ["b|0", "c|3"])
    assert found["count below 1"] == (1, ["d2"], ["b|0"])
    assert found["count not below 10"] == (1, ["d2"], ["b|10"])
    assert found["name, count not unique"][:2] == (2, ["d2", "d3"])  # a row with a null key names nothing
    assert "share is null" not in found


def test_keys_that_come_twice_are_named(clickhouse):
    unique = quality.compile_schema(SCHEMA)[-1]
    assert [row["sample"] for row in _rows(clickhouse, quality.repeated("t", unique))] == ["b|5"]


def test_no_broken_rule_means_no_violation():
    rules = quality.compile_schema(SCHEMA)
    assert quality.violations(rules, [{"day": "d", **{f"broken_{n}": 0 for n in range(len(rules))}}]) == []


def test_a_check_without_sql_form_is_refused_by_name():
    schema = pa.DataFrameSchema({"a": pa.Column(str, pa.Check.str_matches("x"))})
    with pytest.raises(ConfigError, match="Check str_matches of column a has no SQL form"):
        quality.compile_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        pa.DataFrameSchema({"a": pa.Column(str)}, checks=pa.Check(lambda frame: True)),
        pa.DataFrameSchema({"a": pa.Column(str)}, strict=True),
        pa.DataFrameSchema({"a.*": pa.Column(str, regex=True)}),
    ],
    ids=["frame check", "strict", "pattern"],
)
def test_what_would_not_be_checked_is_refused(schema):
    with pytest.raises(ConfigError, match="SQL form"):
        quality.compile_schema(schema)


def test_a_unique_column_is_a_rule():
    assert [
        rule.unique
        for rule in quality.compile_schema(pa.DataFrameSchema({"a": pa.Column(str, unique=True, nullable=True)}))
    ] == [("a",)]


@pytest.mark.parametrize("table", ["origin_2h", "carrier_origin_24h", "tail_last", "weather", "plane", "outcomes"])
def test_every_shipped_rule_has_a_sql_form(table):
    assert quality.compile_schema(repo.quality("flights")[table])
