"""Our writer and reader against the stock Feast SDK, both on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.errors import ConfigError, DataError, NotFoundError, ServiceError
from adin.features import online, reader, repo, store, wire
from adin.features.repo import Service, View
from adin.window import Window
from redis_server import RedisServer
from shop_rows import AT, by_feast, forget, keys, rows, takings

pytestmark = pytest.mark.flow(9, 11)
FEATURES = Path(__file__).parents[1] / "shop" / "features"


@pytest.fixture(scope="module", autouse=True)
def shop(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Feast project of its own: registry in a file, features in Redis."""
    registry = tmp_path_factory.mktemp("registry") / "feast.db"
    conn = replace(redis_server.connection, extra={"registry": f"sqlite:///{registry}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", conn.uri)
        patch.setenv("ADIN_FEATURE_REPO", str(FEATURES))
        forget()
        store.apply("shop")
        yield
    forget()


@pytest.fixture(autouse=True)
def empty_store() -> None:
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)


def stored() -> dict[bytes, dict[bytes, bytes]]:
    """Everything in Redis."""
    with wire.Session() as session:
        names = session.exchange(wire.command(b"KEYS", b"*"), 1)[0]
        found = session.exchange(b"".join(wire.command(b"HGETALL", name) for name in names), len(names))
    return {name: dict(zip(each[::2], each[1::2], strict=True)) for name, each in zip(names, found, strict=True)}


def test_what_we_write_equals_what_feast_writes_byte_for_byte() -> None:
    table = rows(2000)
    by_feast(table)
    theirs = stored()
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    online.write(takings(), table)
    ours = stored()
    extra = b"_created:takings"
    assert ours.keys() == theirs.keys()
    odd = {f: (v, ours[key][f]) for key, fields in theirs.items() for f, v in fields.items() if ours[key].get(f) != v}
    assert odd == {}
    assert {len(fields) for fields in ours.values()} == {1 + len(fields) for fields in theirs.values()}
    assert all(len(fields[extra]) == 16 for fields in ours.values())


def test_the_stock_sdk_reads_what_we_write() -> None:
    table = rows(300)
    online.write(takings(), table)
    feast = store.feature_store()
    features = [f"takings:{name}" for name, _ in takings().features]
    answer = feast.get_online_features(features=features, entity_rows=keys(table)).to_dict()
    for name in ("orders", "cents", "open", "keeper"):
        assert answer[name] == table[name].to_pylist(), name
    for name in ("amount", "mean"):
        assert answer[name] == pytest.approx(table[name].to_pylist()), name
    seconds = [None if at is None else at.replace(microsecond=0) for at in table["opened_at"].to_pylist()]
    assert answer["opened_at"] == seconds


def test_our_reader_reads_what_the_stock_sdk_writes() -> None:
    table = rows(300)
    by_feast(table)
    asked = [*keys(table), {"shop": "nowhere", "till_id": 1}]
    columns, times = online.OnlineReader(repo.service("shop", "counter")).read(asked)
    expected = table.to_pandas()
    for name in ("amount", "mean", "orders", "cents"):
        found = columns[f"takings__{name}"]
        assert np.isnan(found[-1].astype(float)), name
        np.testing.assert_array_equal(found[:-1].astype("float64"), expected[name].astype("float64"), name)
    assert list(columns["takings__keeper"][:-1]) == list(expected["keeper"].where(expected["keeper"].notna(), None))
    assert list(columns["takings__open"][:-1]) == list(expected["open"].where(expected["open"].notna(), None))
    assert np.isnat(times["takings"][-1])
    moments = expected["event_timestamp"].dt.tz_localize(None).to_numpy("datetime64[us]")
    np.testing.assert_array_equal(times["takings"][:-1], moments)


def test_an_unknown_entity_is_told_from_one_whose_values_are_null() -> None:
    table = rows(1)
    nulls = {name: pa.nulls(1, table.schema.field(name).type) for name, _ in takings().features}
    for name, column in nulls.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    online.write(takings(), table)
    asked = [*keys(table), {"shop": "shop-0", "till_id": 404}]
    columns, times = online.OnlineReader(repo.service("shop", "counter")).read(asked)
    assert np.isnan(columns["takings__amount"]).all()
    assert list(np.isnat(times["takings"])) == [False, True]
    assert np.isnat(times["prices"]).all()


def test_written_twice_nothing_changes() -> None:
    table = rows(500)
    first = online.write(takings(), table)
    before = stored()
    second = online.write(takings(), table)
    assert (first.written, second.written, second.skipped) == (500, 0, 500)
    assert stored() == before


def read_one(name: str) -> Any:
    columns, _ = online.OnlineReader(repo.service("shop", "counter")).read([{"shop": "shop-0", "till_id": -5}])
    return columns[f"takings__{name}"][0]


def one(cents: int | None, *, at: datetime = AT, created: datetime = AT) -> pa.Table:
    table = rows(1)
    for name, value in {"cents": cents, "event_timestamp": at, "created_timestamp": created}.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array([value], field.type))
    return table


def test_an_older_row_never_replaces_a_newer_one() -> None:
    online.write(takings(), one(1))
    report = online.write(takings(), one(2, at=AT - timedelta(seconds=1), created=AT + timedelta(days=1)))
    assert (report.written, read_one("cents")) == (0, 1)


def test_a_row_of_the_same_time_that_became_known_later_corrects_the_stored_one() -> None:
    online.write(takings(), one(1))
    online.write(takings(), one(2, created=AT + timedelta(hours=1)))
    assert read_one("cents") == 2
    online.write(takings(), one(1))
    assert read_one("cents") == 2


def test_values_made_anew_by_another_rule_replace_the_stored_ones() -> None:
    online.write(takings(), one(1))
    assert online.write(takings(), one(3)).written == 1
    assert read_one("cents") == 3


def test_whole_numbers_keep_every_digit() -> None:
    online.write(takings(), one(2**62 + 1))
    assert read_one("cents") == 2**62 + 1


def test_null_replaces_an_older_value() -> None:
    online.write(takings(), one(1))
    online.write(takings(), one(None, at=AT + timedelta(seconds=1)))
    assert np.isnan(read_one("cents"))


def test_of_many_rows_of_one_key_the_newest_is_written_whatever_their_order() -> None:
    versions = [one(n, at=AT + timedelta(minutes=n)) for n in (3, 9, 1, 7)]
    report = online.write(takings(), pa.concat_tables(versions))
    assert (report.rows, report.written, read_one("cents")) == (4, 1, 9)


def test_the_next_row_replaces_one_that_feast_wrote() -> None:
    by_feast(one(1))
    assert online.write(takings(), one(2)).written == 1
    assert read_one("cents") == 2


def test_rows_without_a_key_are_left_out() -> None:
    table = rows(3)
    index = table.schema.get_field_index("shop")
    table = table.set_column(index, "shop", pa.array(["shop-0", None, "shop-2"]))
    assert online.write(takings(), table).written == 2


def test_a_missing_column_and_a_wrong_type_are_named() -> None:
    with pytest.raises(DataError, match="lack the columns keeper"):
        online.write(takings(), rows(3).drop_columns(["keeper"]))
    table = rows(3)
    text = table.set_column(table.schema.get_field_index("cents"), "cents", pa.array(["a", "b", "c"]))
    with pytest.raises(DataError, match="cents does not fit its type Int64"):
        online.write(takings(), text)


def test_a_key_that_is_missing_or_of_another_type_is_refused() -> None:
    reader = online.OnlineReader(repo.service("shop", "counter"))
    with pytest.raises(DataError, match="till_id is missing"):
        reader.read([{"shop": "shop-1"}])
    with pytest.raises(DataError, match="till_id must be a whole number"):
        reader.read([{"shop": "shop-1", "till_id": "7"}])


def test_coverage_names_the_views_with_nothing_online() -> None:
    service = repo.service("shop", "counter")
    assert online.coverage(service) == ["takings", "prices"]
    online.write(takings(), rows(3))
    assert online.coverage(service) == ["prices"]


def loaded_without(view: View, name: str, table: pa.Table) -> None:
    online.write(replace(view, features=tuple(each for each in view.features if each[0] != name)), table)


def bread(level: int | None) -> pa.Table:
    """A row of the view ``prices``."""
    at = pa.array([AT], pa.timestamp("us", "UTC"))
    values = {"bread": pa.array([1.5], pa.float32()), "level": pa.array([level], pa.int32())}
    return pa.table({"shop": pa.array(["shop-1"]), **values, "event_timestamp": at, "created_timestamp": at})


def test_coverage_names_a_feature_that_all_entities_were_loaded_without() -> None:
    service, prices = repo.service("shop", "counter"), repo.domain("shop").view("prices")
    loaded_without(takings(), "cents", rows(30))
    loaded_without(prices, "bread", bread(None))
    assert online.coverage(service) == ["takings__cents", "prices__bread"]
    # what a model does not need is not asked for; bread is, where it takes the on-demand feature
    few = [name for name in service.columns if name not in ("takings__cents", "prices__bread")]
    assert online.coverage(service, few) == ["prices__bread"]
    assert online.coverage(service, ["takings__amount", "prices__level"]) == []
    online.write(takings(), rows(31).slice(30))
    online.write(prices, bread(None))
    assert online.coverage(service) == []


def test_a_stored_null_is_online() -> None:
    table = rows(3)
    index = table.schema.get_field_index("cents")
    online.write(takings(), table.set_column(index, "cents", pa.nulls(3, pa.int64())))
    assert online.coverage(repo.service("shop", "counter")) == ["prices"]


def test_coverage_looks_at_some_entities_for_a_feature_and_at_all_for_a_view(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scans(service: Service, *columns: str) -> int:
        redis_server.ask("CONFIG", "RESETSTAT")
        online.coverage(service, columns)
        told = redis_server.ask("INFO", "commandstats").decode()
        return int(told.partition("cmdstat_scan:calls=")[2].partition(",")[0])

    monkeypatch.setattr(reader, "_SCAN", 50)
    monkeypatch.setattr(reader, "_ENOUGH", 100)
    service = repo.service("shop", "counter")
    only = replace(service, views=(takings(),), on_demand=())
    loaded_without(takings(), "cents", rows(2000))
    assert online.coverage(only) == ["takings__cents"]
    assert scans(only, "takings__cents") < 10
    assert scans(replace(only, views=(replace(takings(), name="other"),)), "other__cents") >= 20


def test_a_wrong_password_and_a_server_that_is_down_are_told_apart(redis_server: RedisServer) -> None:
    redis = redis_server.connection
    with (
        pytest.raises(ConfigError, match="refused to sign in"),
        wire.Session(Connection("feast", redis.host, redis.port, password="wrong")) as session,
    ):
        session.exchange(wire.command(b"PING"), 1)
    with (
        pytest.raises(ServiceError, match="does not answer"),
        wire.Session(Connection("feast", redis.host, 1)) as session,
    ):
        session.exchange(wire.command(b"PING"), 1)


def test_applied_again_nothing_changes_and_a_changed_view_is_told(tmp_path: Path) -> None:
    assert store.plan("shop").changes == ()
    assert store.apply("shop").changes == ()
    source = FEATURES / "shop"
    changed = tmp_path / "shop"
    changed.mkdir()
    for file in source.iterdir():
        if file.is_file():
            text = file.read_text().replace("timedelta(hours=6)", "timedelta(hours=7)")
            text = text.replace('Field(name="level", dtype=Int32)', 'Field(name="salt", dtype=Int32)')
            (changed / file.name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(tmp_path))
        forget()
        planned = store.plan("shop")
    forget()
    assert {(change.action, change.name) for change in planned.changes} == {
        ("changed", "takings"),
        ("changed", "prices"),
        ("changed", "counter"),
        ("changed", "bill"),
    }
    assert "ttl" in str(planned) and "salt" in str(planned)


def test_overlapping_intervals_of_a_view_become_one() -> None:
    store.record_interval("prices", Window.parse("2013-01-01", "2013-01-02"))
    store.record_interval("prices", Window.parse("2013-01-02", "2013-01-03"))
    store.record_interval("prices", Window.parse("2013-02-01", "2013-02-02"))
    store.record_interval("prices", Window.parse("2013-02-01", "2013-02-02"))
    assert store.intervals("prices") == [
        Window.parse("2013-01-01", "2013-01-03"),
        Window.parse("2013-02-01", "2013-02-02"),
    ]
    with pytest.raises(NotFoundError, match="no view nowhere"):
        store.record_interval("nowhere", Window.parse("2013-01-01", "2013-01-02"))
    assert store.plan("shop").changes == ()
