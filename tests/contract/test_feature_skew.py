"""The skew check: online answers beside the offline store, in its PostgreSQL edition, on real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from adin.commands.features import app
from adin.errors import DataError, NotFoundError
from adin.features import codec, online, repo, skew, store, wire
from adin.window import Window
from feature_registry import forget
from redis_server import RedisServer
from servers import Servers, execute
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(9)
SHOP = Path(__file__).parents[1] / "shop"
SHOPS = 40
TABLES = """
DROP SCHEMA IF EXISTS shop CASCADE;
DROP TABLE IF EXISTS adin.partitions;
CREATE SCHEMA shop;
CREATE SCHEMA IF NOT EXISTS adin;
CREATE TABLE adin.partitions ("table" text, day text, fingerprint text, rows bigint, run_key text);
CREATE TABLE shop.prices (shop text, bread real, level integer, event_timestamp timestamptz,
    created_timestamp timestamptz, day text);
CREATE TABLE shop.takings (shop text, till_id bigint, amount double precision, mean real, orders integer, cents bigint,
    open boolean, keeper text, opened_at timestamptz, event_timestamp timestamptz, created_timestamp timestamptz,
    day text);
INSERT INTO shop.prices SELECT 'shop-' || n, n / 3.0, CASE WHEN n % 5 > 0 THEN n END,
    day + interval '12 hours', day + interval '13 hours', day::date::text
    FROM generate_series(1, 40) n, generate_series('2013-07-01', '2013-07-03', interval '1 day') day;
INSERT INTO shop.prices SELECT shop, bread + 100, level, event_timestamp - interval '1 hour', created_timestamp, day
    FROM shop.prices;
INSERT INTO shop.takings SELECT 'shop-' || n % 7, n, n / 7.0, n / 9.0, -n, n * 1000000007::bigint, n % 2 = 0,
    CASE WHEN n % 3 > 0 THEN 'naïve ' || n END, '2013-07-03'::timestamptz, '2013-07-03 12:00Z', '2013-07-03 13:00Z',
    '2013-07-03' FROM generate_series(1, 40) n;
INSERT INTO adin.partitions SELECT 'shop.prices', day, day, 80, '' FROM (SELECT DISTINCT day FROM shop.prices) d;
INSERT INTO adin.partitions VALUES ('shop.takings', '2013-07-03', 'f', 40, '');
"""


@pytest.fixture
def counter(redis_server: RedisServer, servers: Servers, tmp_path: Path) -> Iterator[repo.Service]:
    """The service ``counter``: published in PostgreSQL and loaded online."""
    database = servers.database
    sign_in = f"{database.login}:{database.password}@{database.host}:{database.port}"
    extra = {
        "registry": f"sqlite:///{tmp_path / 'feast.db'}",
        "offline": f"postgresql://{sign_in}/{database.schema}",
    }
    execute(database, TABLES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(SHOP / "features"))
        patch.setenv("ADIN_PROBLEMS", str(SHOP / "problems"))
        patch.setenv("ADIN_OFFLINE_STORE", "postgres")
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra=extra).uri)
        forget()
        with wire.Session() as session:
            session.exchange(wire.command(b"FLUSHALL"), 1)
        done = CliRunner().invoke(app, ["apply", "shop", "--load", "--json"])
        assert done.exit_code == 0, done.output
        yield repo.service("shop", "counter")
    forget()


def wrong(report: skew.SkewReport) -> dict[str, tuple[float, float, float]]:
    """The features with a share, as counts of entities."""
    return {
        each.feature: tuple(round(share * each.entities) for share in (each.mismatch, each.missing, each.extra))
        for each in report.features
        if each.worst
    }


def price(shop: str, bread: float, level: int | None, *, hour: int = 13) -> pa.Table:
    times = pa.array([datetime(2013, 7, 3, hour, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    columns = {
        "shop": pa.array([shop]),
        "bread": pa.array([bread], pa.float32()),
        "level": pa.array([level], pa.int32()),
    }
    return pa.table({**columns, "event_timestamp": times, "created_timestamp": times})


def load_anew(*views: str) -> None:
    """Load all published days of some views into an empty store."""
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    for view in views:
        assert CliRunner().invoke(app, ["materialize", "shop", view, "--all"]).exit_code == 0


def test_new_views_are_loaded_online_over_all_published_days_by_one_command(counter: repo.Service) -> None:
    assert store.intervals("prices") == [Window.parse("2013-07-01", "2013-07-04")]
    assert store.intervals("takings") == [Window.parse("2013-07-03", "2013-07-04")]
    columns, _ = online.OnlineReader(counter).read([{"shop": "shop-3", "till_id": 3}])
    assert (columns["prices__bread"][0], columns["takings__cents"][0]) == (1.0, 3 * 1000000007)
    done = CliRunner().invoke(app, ["materialize", "shop", "prices", "--all", "--json"])
    assert json.loads(done.stdout) | {"written": 0} == json.loads(done.stdout)
    assert json.loads(done.stdout)["days"] == 3


def test_a_feature_added_later_is_loaded_from_the_days_that_have_it_and_null_from_the_others(
    counter: repo.Service, servers: Servers
) -> None:
    # as published anew with the new column: the first day only; shop-1 has no row on the days after
    execute(servers.database, "ALTER TABLE shop.prices DROP COLUMN level; ALTER TABLE shop.prices ADD level integer")
    execute(servers.database, "UPDATE shop.prices SET level = 77 WHERE day = '2013-07-01'")
    execute(servers.database, "DELETE FROM shop.prices WHERE shop = 'shop-1' AND day > '2013-07-01'")
    load_anew("prices")
    columns, _ = online.OnlineReader(counter).read([{"shop": f"shop-{n}", "till_id": n} for n in (1, 2)])
    assert str(columns["prices__level"].tolist()) == "[77.0, nan]"
    assert columns["prices__bread"].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_what_was_loaded_as_it_was_published_has_no_skew(counter: repo.Service) -> None:
    report = skew.check(counter)
    assert {each.feature: each.entities for each in report.features} == {
        f"{view.name}__{name}": 40 for view in counter.views for name, _ in view.features
    }
    assert wrong(report) == {}
    done = CliRunner().invoke(app, ["skew", "bread_bill", "--limit", "0"])
    assert done.exit_code == 0, done.output


def test_what_differs_is_missing_or_extra_online_is_told_per_feature(counter: repo.Service) -> None:
    prices = repo.domain("shop").view("prices")
    online.write(prices, price("shop-1", 99.0, 1))  # one value differs
    online.write(prices, price("shop-2", 2 / 3, 77))  # the other
    online.write(prices, price("shop-4", 4 / 3 * (1 + 2e-7), 4))  # within the tolerance
    online.write(prices, price("shop-5", 5 / 3, 5))  # null offline
    with wire.Session() as session:
        lost = codec.entity_key({"shop": ("String", "shop-6")}, "adin")
        assert session.exchange(wire.command(b"DEL", lost), 1) == [1]
    report = skew.check(counter)
    assert wrong(report) == {"prices__bread": (1, 1, 0), "prices__level": (1, 1, 1)}
    done = CliRunner().invoke(app, ["skew", "counter", "--json"])
    told = json.loads(done.output)
    assert done.exit_code == 1 and told["worst"] == 1 / 40
    level = next(each for each in told["features"] if each["feature"] == "prices__level")
    assert level["example"]["offline"] != level["example"]["online"]
    assert CliRunner().invoke(app, ["skew", "counter", "--limit", "0.05"]).exit_code == 0


def test_a_sample_is_of_so_many_entities_and_its_seed_draws_it_again(counter: repo.Service) -> None:
    prices = repo.domain("shop").view("prices")
    for n in range(1, SHOPS + 1):
        online.write(prices, price(f"shop-{n}", -1.0, 1))

    def drawn(seed: int) -> list[tuple[int, object]]:
        report = skew.check(counter, sample=5, seed=seed)
        return [(each.entities, each.example) for each in report.features if each.feature == "prices__bread"]

    assert drawn(1) == drawn(1) and drawn(1)[0][0] == 5
    assert len({str(drawn(seed)) for seed in range(6)}) > 1


def test_what_nobody_could_know_yet_is_not_held_against_the_online_store(
    counter: repo.Service, servers: Servers
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    execute(
        servers.database,
        "INSERT INTO shop.prices SELECT shop, -7, -7, event_timestamp + interval '1 hour', "
        f"'{later.isoformat()}', day FROM shop.prices WHERE day = '2013-07-03'",
    )
    assert wrong(skew.check(counter)) == {}
    execute(servers.database, "UPDATE shop.prices SET created_timestamp = now() WHERE bread = -7")
    assert {"prices__bread", "prices__level"} == set(wrong(skew.check(counter)))


def test_a_window_draws_from_all_its_days_and_compares_with_the_newest_row_also_of_later_ones(
    counter: repo.Service, servers: Servers
) -> None:
    # shop-1 .. shop-10 have no row on the last day, shop-1 .. shop-5 none on the last but one
    execute(servers.database, "DELETE FROM shop.prices WHERE day = '2013-07-03' AND bread < 3.4")
    execute(servers.database, "DELETE FROM shop.prices WHERE day = '2013-07-03' AND bread BETWEEN 100 AND 103.4")
    execute(servers.database, "DELETE FROM shop.prices WHERE day = '2013-07-02' AND bread < 1.7")
    execute(servers.database, "DELETE FROM shop.prices WHERE day = '2013-07-02' AND bread BETWEEN 100 AND 101.7")
    execute(servers.database, "UPDATE shop.prices SET level = 77 WHERE day = '2013-07-01' AND shop = 'shop-40'")
    load_anew("prices", "takings")
    prices = repo.domain("shop").view("prices")
    only = replace(counter, views=(prices,))

    def checked(*window: str, **more: int) -> tuple[list[str], int, dict[str, tuple[float, float, float]]]:
        report = skew.check(only, window=Window.parse(*window) if window else None, **more)
        entities = next(each.entities for each in report.features if each.feature == "prices__bread")
        return list(report.days["prices"]), entities, wrong(report)

    days = ["2013-07-01", "2013-07-02", "2013-07-03"]
    assert checked() == (days[2:], 30, {})
    assert checked("2013-07-02", "2013-07-04") == (days[1:], 35, {})
    assert checked("2013-07-01", "2013-07-04") == (days, 40, {})
    # what is online of them stands on the days after
    assert checked("2013-07-01", "2013-07-02", sample=7) == (days[:1], 7, {})
    assert checked("2013-07-01", "2013-07-02") == (days[:1], 40, {})
    # one that only the first day has differs; one that all days have differs
    online.write(prices, price("shop-2", -1.0, 2))
    online.write(prices, price("shop-39", -1.0, 39))
    assert checked()[2] == {"prices__bread": (1, 0, 0)}
    assert checked("2013-07-01", "2013-07-02")[2] == {"prices__bread": (2, 0, 0)}
    assert checked("2013-07-01", "2013-07-04")[2] == {"prices__bread": (2, 0, 0)}


def test_a_view_published_on_no_day_of_the_window_is_drawn_from_its_last_day_before(
    counter: repo.Service, servers: Servers
) -> None:
    report = skew.check(counter, window=Window.parse("2013-07-05", "2013-08-01"))
    assert report.days == {"prices": ("2013-07-03",), "takings": ("2013-07-03",)}
    with pytest.raises(DataError, match=r"shop.takings has no published partition before 2013-07-03\."):
        skew.check(counter, window=Window.parse("2013-07-01", "2013-07-03"))


def test_the_command_takes_a_window(counter: repo.Service) -> None:
    done = CliRunner().invoke(app, ["skew", "counter", "--start", "2013-07-02", "--end", "2013-07-04", "--json"])
    assert json.loads(done.stdout)["days"] == {"prices": ["2013-07-02", "2013-07-03"], "takings": ["2013-07-03"]}
    done = CliRunner().invoke(app, ["skew", "counter", "--start", "2013-07-02", "--end", "2013-07-04"])
    assert "prices: entities of 2 days, 2013-07-02 .. 2013-07-03" in done.output
    half = CliRunner().invoke(app, ["skew", "counter", "--start", "2013-07-02"])
    assert half.exit_code == 2 and "Give --start and --end, or neither" in half.output


def test_a_view_without_days_and_an_unknown_name_are_refused(counter: repo.Service, servers: Servers) -> None:
    execute(servers.database, "DELETE FROM adin.partitions WHERE \"table\" = 'shop.takings'")
    with pytest.raises(DataError, match="no published partition"):
        skew.check(counter)
    with pytest.raises(NotFoundError, match="nowhere"):
        skew.find("nowhere")
