"""Feast's own materialization with our engine and store: what it writes, and what goes Feast's own way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.errors import ConfigError, DataError
from adin.features import feast_online, lease, online, spark_online
from adin.features.repo import View
from adin.settings import settings
from feast_project import END, START, Project
from redis_server import RedisServer, nodes, redis_cluster, several
from shop_rows import AT, rows
from spark_session import spark_session

pytestmark = pytest.mark.flow(9, 11)


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.ask("FLUSHALL")
    yield redis_server
    settings.cache_clear()


def without_stamps(content: dict[bytes, dict[bytes, bytes]]) -> dict[bytes, dict[bytes, bytes]]:
    return {
        key: {field: value for field, value in fields.items() if not field.startswith(b"_created:")}
        for key, fields in content.items()
    }


def test_the_stock_command_writes_with_our_engine_what_it_writes_with_its_own(
    redis: RedisServer, tmp_path: Path
) -> None:
    table = pa.concat_tables([rows(800), rows(800, at=AT + timedelta(hours=3), seed=2)])
    written = {}
    for ours in (False, True):
        project = Project(tmp_path / str(ours), redis.connection, ours=ours)
        project.put(table)
        found = project.apply()
        if ours:
            feast = [str(Path(sys.executable).with_name("feast")), "-c", str(project.folder)]
            command = [*feast, "materialize", f"{START:%Y-%m-%dT%H:%M:%S}", f"{END:%Y-%m-%dT%H:%M:%S}", "-v", "takings"]
            subprocess.run(command, check=True, capture_output=True, env=os.environ)
        else:
            found.materialize(START, END, feature_views=["takings"])
        view = found.registry.get_feature_view("takings", "bakery", allow_cache=False)
        assert view.materialization_intervals == [(START, END)]
        written[ours] = redis.content()
        redis.ask("FLUSHALL")
    assert without_stamps(written[True]) == written[False]
    assert all(b"_created:takings" in fields for fields in written[True].values())


def test_feasts_materialization_waits_for_another_load_of_the_view(redis: RedisServer, tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", redis.connection, ours=True)
    project.put(rows(50))
    found = project.apply()
    with ThreadPoolExecutor(1) as pool:
        with lease.alone("takings", "the other", conn=redis.connection, project="bakery"):
            load = pool.submit(found.materialize, START, END, feature_views=["takings"])
            with pytest.raises(TimeoutError):
                load.result(5)
            assert redis.ask("KEYS", "*") == [b"adin:load:bakery:takings"]
        load.result(60)
    assert any(b"_ts:takings" in fields for fields in redis.content().values())


def test_rows_pushed_by_feast_are_stored_as_the_same_rows_materialized(redis: RedisServer, tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", redis.connection, ours=True)
    table = rows(200)
    project.put(table)
    found = project.apply()
    found.write_to_online_store("takings", table.to_pandas())
    pushed = redis.content()
    redis.ask("FLUSHALL")
    found.materialize(START, END, feature_views=["takings"])
    assert redis.content() == pushed


def test_a_view_with_lists_goes_feasts_own_way(redis: RedisServer, tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", redis.connection, ours=True)
    project.put(rows(20))
    found = project.apply()
    found.materialize(START, END, feature_views=["lists"])
    answer = found.get_online_features(["lists:many"], [{"till_id": -5}, {"till_id": 3}]).to_dict()
    assert answer["many"] == [[0, 1], [8, 9]]


def test_tags_delete_and_expire_rows_in_feasts_materialization_too(redis: RedisServer, tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", redis.connection, ours=True, tags={"deleted": "open", "online_ttl": "2h"})
    table = rows(100)
    project.put(table)
    found = project.apply()
    found.materialize(START, END, feature_views=["takings"])
    kept = [fields for fields in redis.content().values() if b"_ts:takings" in fields]
    assert len(kept) == sum(open_ is not True for open_ in table["open"].to_pylist())
    assert all(0 < redis.ask("TTL", key) <= 7200 for key in redis.content())


@pytest.mark.parametrize(
    ("keys", "tags", "left"),
    [
        # beside a view without the tag; beside `lists`, which is written Feast's own way
        (["till", "shop"], {"brief": "1h", "kept": ""}, -1),
        (["till"], {"brief": "1h", "kept": "2h"}, -1),
        (["shop"], {"brief": "1h", "kept": "2h"}, 7200),
    ],
)
def test_rows_pushed_by_feast_leave_what_other_views_have_of_the_entity_as_long_as_these_say(
    redis: RedisServer, tmp_path: Path, keys: list[str], tags: dict[str, str], left: int
) -> None:
    from feast import FeatureView, Field, types

    project = Project(tmp_path / "ours", redis.connection, ours=True)
    table = rows(20)
    project.put(table)
    found = project.apply()
    entities = [each for each in found.list_entities() if each.name in keys]
    source = found.get_data_source("rows")
    for name, ttl in tags.items():
        tag = {"online_ttl": ttl} if ttl else {}
        schema = [Field(name="orders", dtype=types.Int32)]
        found.apply(FeatureView(name=name, entities=entities, schema=schema, source=source, tags=tag))
    found.write_to_online_store("brief", table.to_pandas())
    pushed = [redis.ask("TTL", key) for key in redis.content()]
    found.materialize(START, END, feature_views=["kept"])
    loaded = [redis.ask("TTL", key) for key in redis.content()]
    assert pushed and all(left - 60 < each <= left for each in (*pushed, *loaded))


def test_a_failed_load_records_no_interval_and_raises_what_was_wrong(redis: RedisServer, tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", redis.connection, ours=True)
    table = rows(10)
    texts = pa.array(["many"] * 10)
    project.put(table.set_column(table.schema.get_field_index("orders"), "orders", texts))
    found = project.apply()
    with pytest.raises(DataError, match="orders does not fit its type Int32"):
        found.materialize(START, END, feature_views=["takings"])
    assert found.registry.get_feature_view("takings", "bakery", allow_cache=False).materialization_intervals == []


def test_feasts_materialization_reaches_a_redis_cluster(tmp_path: Path) -> None:
    servers = redis_cluster(tmp_path / "cluster")
    try:
        project = Project(tmp_path / "ours", nodes(servers, "cluster"), ours=True)
        table = rows(300)
        project.put(table)
        found = project.apply()
        found.materialize(START, END, feature_views=["takings"])
        entities = table.select(["shop", "till_id"]).to_pylist()
        answer = found.get_online_features(["takings:keeper"], entities).to_dict()
        assert answer["keeper"] == table["keeper"].to_pylist()
        assert all(server.content() for server in servers)
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three servers which do not know of each other."""
    servers = several(tmp_path / "servers")
    yield servers
    for server in servers:
        server.kill()


def test_what_feast_loads_and_pushes_to_several_servers_lies_where_we_look(
    shared: list[RedisServer], tmp_path: Path
) -> None:
    conn = nodes(shared, "servers")
    project = Project(tmp_path / "ours", conn, ours=True)
    table, later = rows(300), rows(300, at=AT + timedelta(hours=1))
    project.put(table)
    found = project.apply()
    view = feast_online._view(found.get_feature_view("takings"), found.config)
    assert view
    found.materialize(START, END, feature_views=["takings"])
    assert all(server.content() for server in shared)
    assert online.write(view, table, conn=conn, project="bakery").written == 0
    found.write_to_online_store("takings", later.to_pandas())
    assert online.write(view, later, conn=conn, project="bakery").written == 0
    assert sum(len(server.content()) for server in shared) == 300
    found.apply([], objects_to_delete=[found.get_feature_view("takings")], partial=False)
    assert not any(b"_ts:takings" in fields for server in shared for fields in server.content().values())
    found.teardown()
    assert not any(server.content() for server in shared)


def test_what_goes_feasts_own_way_is_refused_on_several_servers(shared: list[RedisServer], tmp_path: Path) -> None:
    project = Project(tmp_path / "ours", nodes(shared, "servers"), ours=True)
    project.put(rows(20))
    found = project.apply()
    refusals: list[Callable[[], object]] = [
        lambda: found.materialize(START, END, feature_views=["lists"]),
        lambda: found.get_online_features(["takings:cents"], [{"shop": "shop-0", "till_id": -5}]),
        lambda: asyncio.run(found.get_online_features_async(["takings:cents"], [{"shop": "shop-0", "till_id": -5}])),
    ]
    for refused in refusals:
        with pytest.raises(ConfigError, match=r"not the several servers .* load with `adin features materialize`"):
            refused()
    assert found.registry.get_feature_view("lists", "bakery", allow_cache=False).materialization_intervals == []
    assert not any(server.content() for server in shared)


def test_executors_of_spark_write_what_one_process_writes(redis: RedisServer, tmp_path: Path) -> None:
    view = View(
        name="takings",
        table="",
        keys=("till_id", "shop"),
        features=(("amount", "Float64"), ("cents", "Int64"), ("open", "Bool"), ("keeper", "String")),
        key_types=(("till_id", "Int64"), ("shop", "String")),
        deleted="open",
    )
    days = [rows(600, at=AT + timedelta(hours=hour), seed=hour) for hour in (3, 1, 2)]
    ties = [rows(50, at=datetime(2013, 8, 1, tzinfo=UTC), seed=seed) for seed in (7, 8, 9)]
    table = pa.concat_tables([*days, *ties]).select(view.columns)
    online.write(view, table, conn=redis.connection, project="bakery")
    expected = redis.content()
    redis.ask("FLUSHALL")
    pq.write_table(table, tmp_path / "rows.parquet")
    with spark_session(tmp_path / "warehouse", partitions=2) as session:
        frame = session.read.parquet(str(tmp_path / "rows.parquet"))
        assert spark_online.write(frame, view, redis.connection, "bakery") == (600, 600)
        assert redis.content() == expected
