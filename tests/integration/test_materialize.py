"""From published Hive partitions on HDFS to Redis, with the stack's metastore and HDFS."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.connections import connection
from adin.errors import DataError, NotFoundError
from adin.features import hdfs, hive, online, repo, skew, store, wire
from adin.features.offline import Partition
from adin.settings import settings
from adin.window import Window
from redis_server import RedisServer

pytestmark = pytest.mark.flow(9)
SHOP = Path(__file__).parents[1] / "shop" / "features" / "shop"
COLUMNS = {"shop": "string", "bread": "float", "level": "int", "event_timestamp": "timestamp"}
COLUMNS |= {"created_timestamp": "timestamp"}


@pytest.fixture
def table(redis_server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """The Hive table behind the view ``prices``, in a database of the test's own."""
    database = f"t{secrets.token_hex(6)}"
    (tmp_path / "repo" / "shop").mkdir(parents=True)
    for file in SHOP.iterdir():
        if file.is_file():
            text = file.read_text().replace('hive("shop.', f'hive("{database}.')
            (tmp_path / "repo" / "shop" / file.name).write_text(text)
    registry = f"sqlite:///{tmp_path / 'feast.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_SPARK", connection("spark").uri)
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra={"registry": registry}).uri)
        patch.setenv("ADIN_FEATURE_REPO", str(tmp_path / "repo"))
        _forget()
        with wire.Session() as session:
            session.exchange(wire.command(b"FLUSHALL"), 1)
        store.apply("shop")
        yield f"{database}.prices"
        hive.drop_table(f"{database}.prices")
        hdfs.delete(hive.table_folder(f"{database}.prices"))
    _forget()


def _forget() -> None:
    settings.cache_clear()
    repo.read_anew()


def day_of(day: int, prices: dict[str, float], *, hour: int = 12, created_day: int | None = None) -> pa.Table:
    """Rows of one day: each shop's price at two hours, the later one last."""
    at = datetime(2013, 7, day, hour, tzinfo=UTC)
    created = datetime(2013, 7, created_day or day, 23, tzinfo=UTC)
    rows = [
        {"shop": shop, "bread": value, "level": day, "event_timestamp": when, "created_timestamp": created}
        for shop, price in prices.items()
        for when, value in ((at - timedelta(hours=1), price - 100), (at, price))
    ]
    times = pa.timestamp("us", "UTC")
    kinds = [pa.string(), pa.float32(), pa.int32(), times, times]
    return pa.Table.from_pylist(rows, schema=pa.schema(zip(COLUMNS, kinds, strict=True)))


def publish(table: str, days: dict[int, pa.Table], *, without: str = "") -> None:
    """Write each day's file to a folder of its own and publish all of them, without a column if one is named."""
    run = secrets.token_hex(4)
    partitions = {}
    for day, every in days.items():
        rows = every.drop_columns([without] if without else [])
        folder = f"{hive.table_folder(table)}/data/{run}/day=2013-07-{day:02}"
        content = io.BytesIO()
        pq.write_table(rows, content)
        hdfs.make(folder)
        hdfs.write(f"{folder}/part-0.parquet", content.getvalue())
        partitions[f"2013-07-{day:02}"] = Partition(folder, f"{run}-{day}", rows.num_rows, run)
    hive.publish(table, {name: kind for name, kind in COLUMNS.items() if name != without}, partitions)


def price(shop: str) -> Any:
    key = {"shop": shop, "till_id": None}
    columns, _ = online.OnlineReader(repo.service("shop", "counter")).read([key])
    return columns["prices__bread"][0]


def stored() -> dict[bytes, dict[bytes, bytes]]:
    """Everything in Redis."""
    with wire.Session() as session:
        names = session.exchange(wire.command(b"KEYS", b"*"), 1)[0]
        found = session.exchange(b"".join(wire.command(b"HGETALL", name) for name in names), len(names))
    return {name: dict(zip(each[::2], each[1::2], strict=True)) for name, each in zip(names, found, strict=True)}


def window(start: int, end: int) -> Window:
    return Window.parse(f"2013-07-{start:02}", f"2013-07-{end:02}")


def test_the_newest_row_of_each_key_comes_online_and_a_second_run_changes_nothing(table: str) -> None:
    publish(table, {1: day_of(1, {"corner": 1.0, "mill": 2.0}), 2: day_of(2, {"corner": 3.0})})
    first = online.materialize("shop", "prices", window(1, 4))
    before = stored()
    second = online.materialize("shop", "prices", window(1, 4))
    assert (first.days, first.rows, first.keys, first.written) == (2, 6, 2, 2)
    assert second.written == 0 and stored() == before
    assert (price("corner"), price("mill")) == (3.0, 2.0)
    assert store.intervals("prices") == [window(1, 3)]


def test_day_by_day_in_any_order_gives_what_one_run_gives(table: str) -> None:
    days = {day: day_of(day, {"corner": day + 0.5, f"only-{day}": 1.0}) for day in (1, 2, 3)}
    publish(table, days)
    online.materialize("shop", "prices", window(1, 4))
    at_once = stored()
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    for day in (3, 1, 2):
        online.materialize("shop", "prices", window(day, day + 1))
    assert stored() == at_once
    assert store.intervals("prices") == [window(1, 4)]


def test_a_day_published_anew_corrects_what_is_online(table: str) -> None:
    publish(table, {1: day_of(1, {"corner": 1.0})})
    online.materialize("shop", "prices", window(1, 2))
    publish(table, {1: day_of(1, {"corner": 9.0})})
    assert online.materialize("shop", "prices", window(1, 2)).written == 1
    assert price("corner") == 9.0


def test_a_window_without_partitions_and_an_unknown_view_are_refused(table: str) -> None:
    publish(table, {1: day_of(1, {"corner": 1.0})})
    with pytest.raises(DataError, match="no published partition"):
        online.materialize("shop", "prices", window(5, 6))
    with pytest.raises(NotFoundError, match="No view 'nothing'"):
        online.materialize("shop", "nothing", window(1, 2))


def test_a_corrupt_file_is_named_and_nothing_is_recorded(table: str) -> None:
    publish(table, {1: day_of(1, {"corner": 1.0})})
    path = f"{hive.partitions(table)['2013-07-01'].location}/part-0.parquet"
    hdfs.write(path, b"no parquet")
    with pytest.raises(DataError, match="is no readable Parquet file"):
        online.materialize("shop", "prices", window(1, 2))
    assert stored() == {} and store.intervals("prices") == []


def test_a_large_window_is_loaded_by_sparks_executors_with_the_same_result(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(
        table, {1: day_of(1, {"corner": 1.0, "mill": 2.0}), 2: day_of(2, {"corner": 3.0}), 3: day_of(3, {"oven": 4.0})}
    )
    online.materialize("shop", "prices", window(1, 3))
    before = stored()
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    monkeypatch.setenv("ADIN_ONLINE_SPARK_ROWS", "1")
    _forget()
    told: list[online.Progress] = []
    report = online.materialize("shop", "prices", window(1, 3), tell=told.append)
    assert (told[0].phase, told[-1].done, told[-1].total) == ("read", 6, 6)
    assert (report.by, report.rows, report.keys, report.written) == ("spark", 6, 2, 2)
    assert stored() == before
    assert store.intervals("prices") == [window(1, 3)]


def test_the_skew_check_replays_from_hive_what_is_online(table: str) -> None:
    publish(table, {1: day_of(1, {"corner": 1.0}), 2: day_of(2, {"corner": 3.0, "mill": 2.0})})
    online.materialize("shop", "prices", window(1, 3))
    service = replace(repo.service("shop", "counter"), views=(repo.domain("shop").view("prices"),))
    assert [(each.entities, each.worst) for each in skew.check(service).features] == [(2, 0.0), (2, 0.0)]
    publish(table, {2: day_of(2, {"corner": 9.0, "mill": 2.0})})
    assert {each.feature: each.mismatch for each in skew.check(service).features} == {
        "prices__bread": 0.5,
        "prices__level": 0.0,
    }


def test_a_feature_added_later_is_loaded_from_the_days_that_have_it_and_null_from_the_others(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {1: day_of(1, {"corner": 1.0, "mill": 2.0}), 2: day_of(2, {"corner": 3.0})}
    publish(table, days, without="level")
    publish(table, {1: days[1]})
    online.materialize("shop", "prices", window(1, 3))
    asked = [{"shop": shop, "till_id": None} for shop in ("corner", "mill")]
    columns, _ = online.OnlineReader(repo.service("shop", "counter")).read(asked)
    # the newest row of corner is of a day published without the feature
    assert columns["prices__bread"].tolist() == [3.0, 2.0]
    assert str(columns["prices__level"].tolist()) == "[nan, 1.0]"
    service = replace(repo.service("shop", "counter"), views=(repo.domain("shop").view("prices"),))
    for days_of in (None, window(1, 2)):
        assert [each.worst for each in skew.check(service, window=days_of).features] == [0.0, 0.0]
    in_process = stored()
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    monkeypatch.setenv("ADIN_ONLINE_SPARK_ROWS", "1")
    _forget()
    assert online.materialize("shop", "prices", window(1, 3)).by == "spark"
    assert stored() == in_process
