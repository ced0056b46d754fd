"""Rows pushed to Feast's own feature server and to the push API: what is told, what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from adin.connections import Connection
from adin.features import repo, store
from adin.features.push.pusher import Pusher
from adin.features.push.state import State
from adin.models import registry
from adin.models.access import Access
from adin.settings import settings
from fastapi.testclient import TestClient
from feast import PushSource
from feast.data_source import PushMode
from feast.feature_server import get_app
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from judging import Judge
from push_service import Caller, database_url, served, served_with, token
from pyspark.sql import SparkSession
from redis_server import RedisServer
from servers import Servers
from spark_project import opened

pytestmark = pytest.mark.flow(11, 12)
AT = datetime(2013, 9, 30, 12, tzinfo=UTC)
Push = Callable[[list[dict[str, Any]]], int]


@pytest.fixture(scope="module")
def surroundings(servers: Servers, redis_server: RedisServer, tmp_path_factory: Any) -> Iterator[Connection]:
    """The domain flights, applied; the connection of the push service."""
    where = {"registry": f"sqlite:///{tmp_path_factory.mktemp('registry')}/feast.db"}
    push = Connection("push", "127.0.0.1", extra={"database": database_url(servers.database)})
    with pytest.MonkeyPatch.context() as patch:
        feast = replace(redis_server.connection, extra=where)
        for conn in (feast, push, servers.s3, replace(servers.database, name="amversion")):
            patch.setenv(f"ADIN_CONN_{conn.name.upper()}", conn.uri)
        settings.cache_clear()
        repo.read_anew()
        store.apply("flights")
        yield push
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture
def push(whose: str, surroundings: Connection, redis_server: RedisServer) -> Iterator[Push]:
    """Return a function that pushes rows to the view ``origin_2h`` and returns the answer's status."""
    redis_server.ask("FLUSHALL")
    if whose == "stock":
        with TestClient(get_app(store.feature_store()), raise_server_exceptions=False) as server:

            def send(rows: list[dict[str, Any]]) -> int:
                columns = {name: [row.get(name) for row in rows] for name in rows[0]}
                asked = {"push_source_name": "origin_2h_push", "df": columns, "to": "online"}
                return server.post("/push", json=asked).status_code

            yield send
    else:
        access = Access(registry().store)
        with served(surroundings) as address:
            caller = Caller(address, token(access, "alice", "origin_2h"))
            yield lambda rows: caller.push(rows).status_code


def row(origin: str = "JFK", *, at: datetime = AT, **values: Any) -> dict[str, Any]:
    good = {"mean_delay": 12.5, "late_share": 0.25, "departures": 7}
    return {"origin": origin, "event_timestamp": at.isoformat(), "created_timestamp": at.isoformat(), **good, **values}


def departures(origin: str = "JFK") -> Any:
    """Return what the stock SDK reads."""
    found = store.feature_store().get_online_features(["origin_2h:departures"], [{"origin": origin}])
    return found.to_dict()["departures"][0]


@pytest.mark.parametrize("wrong", ["feature_missing", "time_missing", "mistyped"])
def test_a_wrong_row_is_the_callers_mistake_and_no_failure_of_the_server(push: Push, judge: Judge, wrong: str) -> None:
    sent = row(departures="seven") if wrong == "mistyped" else row()
    sent.pop({"feature_missing": "mean_delay", "time_missing": "event_timestamp"}.get(wrong, ""), None)
    judge(push([sent]), right=422, stock=500)


def test_a_wrong_row_among_good_ones_keeps_none_of_them_out(push: Push, judge: Judge) -> None:
    push([row("LGA"), row("JFK", departures="seven"), row("EWR")])
    judge([departures("LGA"), departures("EWR")], right=[7, 7], stock=[None, None])


def test_a_row_older_than_the_stored_one_is_not_dropped_in_silence(push: Push, judge: Judge) -> None:
    assert push([row()]) == 200
    status = push([row(at=AT - timedelta(hours=1), departures=3)])
    judge((status, departures()), right=(422, 7), stock=(200, 7))


def test_a_row_of_nulls_is_not_dropped_in_silence(push: Push, judge: Judge) -> None:
    assert push([row()]) == 200
    nulls = dict.fromkeys(("mean_delay", "late_share", "departures"))
    status = push([row(at=AT + timedelta(hours=1), **nulls)])
    judge((status, departures()), right=(422, 7), stock=(200, 7))


def test_pushed_rows_can_be_kept_for_the_table_in_hive(
    whose: str, judge: Judge, surroundings: Connection, spark: SparkSession, tmp_path: Path
) -> None:
    kept: list[str] = []
    if whose == "stock":
        frame = pd.DataFrame([row() | {"event_timestamp": AT, "created_timestamp": AT}])
        spark.createDataFrame(frame).write.mode("overwrite").saveAsTable("pushed_rows")
        table = SparkSource(name="rows", table="pushed_rows", timestamp_field="event_timestamp")
        source = PushSource(name="rows_push", batch_source=table)
        with pytest.raises(NotImplementedError, match="specified by a table"):
            opened(tmp_path, {"type": "spark"}, source, ("origin",)).push("rows_push", frame, to=PushMode.OFFLINE)
    else:
        pusher = Pusher(State(surroundings))
        pusher.targets["origin_2h"] = replace(pusher.targets["origin_2h"], offline=True)
        access = Access(registry().store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pusher, "land", lambda _: 0)
            with served_with(pusher, access) as address:
                Caller(address, token(access, "alice", "origin_2h")).push([row(at=AT + timedelta(days=1))])
        pusher.state.land(lambda view, _: kept.append(view))
    judge(kept, right=["origin_2h"], stock=[])
