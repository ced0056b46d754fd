"""Loads of published days into the online store: by window, all at once, with progress; and how fresh a view is."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from adin.commands.features import app
from adin.errors import ConflictError, DataError, ServiceError
from adin.features import lease, offline_postgres, online, repo, shards, store
from adin.settings import settings
from adin.window import Window
from postgres_server import PostgresServer
from redis_server import RedisServer, nodes, several
from servers import execute
from shop_rows import forget
from typer.testing import CliRunner
from waiting import until

pytestmark = pytest.mark.flow(9, 11)
FEATURES = Path(__file__).parents[1] / "shop" / "features"
COLUMNS = {"shop": "string", "bread": "float", "level": "int", "event_timestamp": "timestamp"}
COLUMNS |= {"created_timestamp": "timestamp"}


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="adin-load-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    server = PostgresServer(folder / "data")
    yield server
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shop(database: PostgresServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """The PostgreSQL edition with the view ``prices`` published on no day yet; returns the store's address."""
    address = f"postgresql://adin@127.0.0.1:{database.port}/postgres"
    extra = {"registry": f"sqlite:///{tmp_path / 'feast.db'}", "offline": address}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra=extra).uri)
        patch.setenv("ADIN_FEATURE_REPO", str(FEATURES))
        patch.setenv("ADIN_OFFLINE_STORE", "postgres")
        patch.setenv("COLUMNS", "200")
        forget()
        redis_server.ask("FLUSHALL")
        execute(database.conn, "DROP SCHEMA IF EXISTS shop CASCADE")
        execute(database.conn, "DROP SCHEMA IF EXISTS adin CASCADE")
        yield address
    forget()


def publish(days: range, shops: int = 400) -> None:
    """Let every shop have a price on each of some days of July."""
    view = repo.domain("shop").view("prices")
    with offline_postgres.session() as cursor:
        offline_postgres._run(cursor, offline_postgres._PARTITIONS)
        offline_postgres._ensure_table(cursor, view, COLUMNS)
        for day in days:
            at = datetime(2013, 7, day, 12, tzinfo=UTC)
            times = pa.array([at] * shops, pa.timestamp("us", "UTC"))
            rows = {
                "shop": pa.array([f"shop-{n}" for n in range(shops)]),
                "bread": pa.array([day + n / 1000 for n in range(shops)], pa.float32()),
                "level": pa.array([day] * shops, pa.int32()),
                "event_timestamp": times,
                "created_timestamp": times,
                "day": pa.array([f"2013-07-{day:02}"] * shops),
            }
            cursor.adbc_ingest("prices", pa.table(rows), mode="append", db_schema_name="shop")
            listed = f"('shop.prices', '2013-07-{day:02}', 'print-{day}', {shops}, 'run')"
            cursor.execute(f"INSERT INTO adin.partitions VALUES {listed}")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def level(shop: str = "shop-7") -> Any:
    columns, _ = online.OnlineReader(repo.service("shop", "counter")).read([{"shop": shop, "till_id": None}])
    return columns["prices__level"][0]


def window(start: int, end: int) -> Window:
    return Window.parse(f"2013-07-{start:02}", f"2013-07-{end:02}")


def test_one_command_loads_a_newly_applied_view_over_all_published_days(shop: str, redis_server: RedisServer) -> None:
    store.apply("shop")
    publish(range(1, 6))
    done = run("materialize", "shop", "prices", "--all", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["days"], report["rows"], report["keys"], report["written"]) == (5, 2000, 400, 400)
    assert (level(), len(redis_server.content())) == (5, 400)
    assert store.intervals("prices") == [window(1, 6)]
    assert "read 2,000 of 2,000 rows" in done.stderr and "write 400 of 400 rows" in done.stderr
    assert "rows/s" in done.stderr


def test_a_load_over_a_window_or_over_all_days_must_be_asked_for_clearly(shop: str) -> None:
    for words in ((), ("--all", "--start", "2013-07-01"), ("--start", "2013-07-01")):
        done = run("materialize", "shop", "prices", *words)
        assert done.exit_code == 2 and "Give --start and --end, or --all" in done.stderr
    store.apply("shop")
    with pytest.raises(DataError, match="no published partition"):
        online.published_window("shop", "prices")


def test_progress_tells_rows_rate_and_time_left(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.apply("shop")
    publish(range(1, 3))
    monkeypatch.setattr(online, "_EVERY", 0.0)
    monkeypatch.setenv("ADIN_ONLINE_BATCH", "100")
    forget()
    told: list[online.Progress] = []
    online.materialize("shop", "prices", window(1, 3), tell=told.append)
    assert [(each.done, each.total) for each in told if each.phase == "write"] == [
        (n, 400) for n in (100, 200, 300, 400)
    ]
    assert told[0].phase == "read" and told[-1].remaining == 0
    assert all(each.rate > 0 for each in told)
    first = next(each for each in told if each.phase == "write")
    assert first.remaining == pytest.approx(300 / first.rate)


def test_the_freshness_of_a_view_is_a_number_of_days_waiting_and_of_seconds(shop: str) -> None:
    publish(range(1, 5))
    fresh = {each.view: each for each in online.freshness("shop")}
    assert (fresh["prices"].waiting_days, fresh["prices"].online_until, fresh["prices"].age_seconds) == (4, None, None)
    store.apply("shop")
    online.materialize("shop", "prices", window(1, 3))
    found = {each.view: each for each in online.freshness("shop")}["prices"]
    assert (found.waiting_days, found.online_until) == (2, datetime(2013, 7, 3, tzinfo=UTC))
    assert found.published_until == datetime(2013, 7, 5, tzinfo=UTC)
    expected = (datetime.now(UTC) - datetime(2013, 7, 3, tzinfo=UTC)).total_seconds()
    assert found.age_seconds == pytest.approx(expected, abs=600)
    shown = {row["view"]: row for row in json.loads(run("status", "shop", "--json").stdout)}
    assert (shown["prices"]["waiting"], shown["prices"]["newest"]) == (2, "2013-07-04")
    assert shown["takings"]["online_until"] is None
    online.materialize("shop", "prices", window(3, 5))
    assert {each.view: each for each in online.freshness("shop")}["prices"].waiting_days == 0


def test_redis_killed_in_the_middle_of_a_load_records_nothing_and_the_next_load_completes(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = several(tmp_path / "redis")
    extra = {"registry": f"sqlite:///{tmp_path / 'feast.db'}", "offline": shop}
    monkeypatch.setenv("ADIN_CONN_FEAST", nodes(found, "servers", **extra).uri)
    monkeypatch.setenv("ADIN_ONLINE_BATCH", "50")
    forget()
    monkeypatch.setattr(online, "_EVERY", 0.0)
    store.apply("shop")
    publish(range(1, 4))

    def kill(progress: online.Progress) -> None:
        if progress.phase == "write" and progress.done == 150:
            found[0].kill()

    with pytest.raises(ServiceError, match="does not answer"):
        online.materialize("shop", "prices", window(1, 4), tell=kill)
    assert store.intervals("prices") == []
    found[0].start()
    report = online.materialize("shop", "prices", window(1, 4))
    assert 0 < report.written < report.keys == 400
    assert sum(len(server.content()) for server in found) == 400
    with shards.Shards() as opened:
        assert len(opened.primaries()) == 3
    assert store.intervals("prices") == [window(1, 4)]
    for server in found:
        server.kill()


def test_later_days_first_or_last_give_the_same(shop: str, redis_server: RedisServer) -> None:
    store.apply("shop")
    publish(range(1, 4))
    online.materialize("shop", "prices", window(1, 4))
    at_once = redis_server.content()
    redis_server.ask("FLUSHALL")
    for day in (2, 3, 1):
        online.materialize("shop", "prices", window(day, day + 1))
    assert redis_server.content() == at_once
    assert online.materialize("shop", "prices", window(1, 4)).written == 0
    assert store.intervals("prices") == [window(1, 4)]
    assert online.freshness("shop")[0].published_until == datetime(2013, 7, 3, tzinfo=UTC) + timedelta(days=1)


def test_a_load_waits_for_another_of_the_same_view_and_says_so(shop: str) -> None:
    store.apply("shop")
    publish(range(1, 3))
    told: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with lease.alone("prices", "the other"):
            load = pool.submit(
                lambda: online.materialize("shop", "prices", window(1, 3), tell=lambda p: told.append(f"{p}"))
            )
            until(lambda: len(told) > 1)
            assert set(told) == {"waits for another load of the view"}
            assert np.isnan(level())
        assert load.result(60).written == 400
    assert level() == 2


def test_a_load_does_not_wait_for_itself_when_run_again_nor_long_for_one_that_was_killed(
    shop: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_ONLINE_LEASE", "3")
    forget()
    store.apply("shop")
    publish(range(1, 3))
    told: list[str] = []
    with shards.Shards() as session:  # all that a killed load leaves
        lease._Lease(f"adin:load:{settings().project}:prices".encode(), b"run-1").take(session)
    online.materialize("shop", "prices", window(1, 2), key="run-1", tell=lambda p: told.append(f"{p}"))
    assert not any("waits" in each for each in told)
    with shards.Shards() as session:
        lease._Lease(f"adin:load:{settings().project}:prices".encode(), b"run-2").take(session)
    online.materialize("shop", "prices", window(1, 3), tell=lambda p: told.append(f"{p}"))
    assert any("waits" in each for each in told)
    assert level() == 2
    assert not [key for key in redis_server.ask("KEYS", "*") if b"adin:load" in key]


@pytest.fixture
def short_lease(shop: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lease of one second for the loads of ``prices``; returns its key."""
    monkeypatch.setenv("ADIN_ONLINE_LEASE", "1")
    forget()
    return f"adin:load:{settings().project}:prices"


def test_the_lease_of_a_load_that_takes_longer_is_prolonged(short_lease: str, redis_server: RedisServer) -> None:
    with lease.alone("prices", "long"):
        time.sleep(3)
        assert redis_server.ask("GET", short_lease) == b"long"
    assert redis_server.ask("GET", short_lease) is None


def test_a_load_whose_lease_went_to_another_one_writes_no_more_and_leaves_it_to_its_new_owner(
    short_lease: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply("shop")
    publish(range(1, 3))

    def be_late(_: online.Progress) -> None:
        redis_server.ask("SET", short_lease, "another")
        time.sleep(1.5)

    with pytest.raises(ConflictError, match="prices was held up"):
        online.materialize("shop", "prices", window(1, 3), tell=be_late)
    assert np.isnan(level()) and redis_server.ask("GET", short_lease) == b"another"
    redis_server.ask("DEL", short_lease)
    monkeypatch.undo()
    forget()
    online.materialize("shop", "prices", window(1, 3))
    assert level() == 2


def test_a_load_that_cannot_prolong_its_lease_holds_it_no_longer_than_it_said(
    short_lease: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease._Lease, "_prolong", lambda *_: (_ for _ in ()).throw(ServiceError("away")))
    with lease.alone("prices", "long") as held:
        held()
        time.sleep(1.5)
        with pytest.raises(ConflictError, match="Run it again"):
            held()
