"""How far a load by Spark is: written down by the driver while executors of a local Spark write to a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from adin.settings import ROOT
from redis_server import RedisServer
from shop_rows import forget
from spark_session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.flow(9)
FEATURES = Path(__file__).parents[1] / "shop" / "features"
SHOPS, DAYS = 400, 10


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[SparkSession]:
    with spark_session(tmp_path / "warehouse", partitions=2) as session:
        yield session


@pytest.fixture
def published(spark: SparkSession, redis_server: RedisServer) -> Iterator[list[str]]:
    """The table of the view ``prices``; returns its days."""
    days = [f"2013-07-{day:02}" for day in range(1, DAYS + 1)]
    spark.sql("CREATE DATABASE shop")
    spark.sql(f"""
        CREATE TABLE shop.prices USING parquet PARTITIONED BY (day) AS
        SELECT concat('shop-', shop) AS shop, cast(day + shop / 1000 AS float) AS bread, cast(day AS int) AS level,
            make_timestamp(2013, 7, day, 12, 0, 0) AS event_timestamp,
            make_timestamp(2013, 7, day, 13, 0, 0) AS created_timestamp,
            concat('2013-07-', lpad(day, 2, '0')) AS day
        FROM (SELECT cast(id % {SHOPS} AS int) AS shop, cast(id div {SHOPS} + 1 AS int) AS day
            FROM range({SHOPS * DAYS}))
    """)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", redis_server.connection.uri)
        patch.setenv("ADIN_FEATURE_REPO", str(FEATURES))
        patch.syspath_prepend(str(ROOT / "include" / "spark"))
        forget()
        redis_server.ask("FLUSHALL")
        yield days
    forget()


def test_a_load_by_spark_writes_down_how_many_rows_it_has_while_it_goes(
    spark: SparkSession,
    published: list[str],
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import job
    import materialize

    monkeypatch.setattr(job, "_PAUSE", 0.02)
    monkeypatch.setattr(materialize, "_TASK", SHOPS * DAYS // 20)
    place, seen, over = tmp_path / "far.json", [], threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            told = _told(place)
            if told and told not in seen:
                seen.append(told)

    looking = threading.Thread(target=look)
    looking.start()
    rows = SHOPS * DAYS
    arguments = {"domain": "shop", "view": "prices", "days": published, "rows": rows, "progress": str(place)}
    done = materialize.work(spark, arguments)
    over.set()
    looking.join()
    assert done == {"keys": SHOPS, "written": SHOPS}
    assert len(redis_server.content()) == SHOPS
    writing = [told["written"] for told in seen if told["written"]]
    assert len(writing) > 2, "not only at the end"
    assert writing == sorted(writing) and writing[-1] <= rows
    assert all(0 <= told["read"] <= rows for told in seen)


def test_a_load_goes_on_where_its_progress_cannot_be_written_down(
    spark: SparkSession, published: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import job
    import materialize

    monkeypatch.setattr(job, "_PAUSE", 0.01)
    (tmp_path / "file").write_text("no folder")
    place = str(tmp_path / "file" / "far.json")
    arguments = {"domain": "shop", "view": "prices", "days": published, "rows": SHOPS * DAYS, "progress": place}
    assert materialize.work(spark, arguments) == {"keys": SHOPS, "written": SHOPS}


def _told(place: Path) -> dict[str, Any] | None:
    """Return what stands there; None while it is being replaced."""
    try:
        return dict(json.loads(place.read_text()))
    except (OSError, ValueError):
        return None
