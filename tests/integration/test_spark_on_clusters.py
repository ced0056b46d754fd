"""An ingest in real clusters. Where the driver runs there too nobody waits for it, and whoever comes finds it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import test_ingest
import test_materialize
from adin import connections
from adin.connections import connection
from adin.errors import DataError, RunFailedError
from adin.features import hive, jobs, online, publish, wire
from adin.settings import settings
from airflow.sdk.exceptions import TaskDeferred
from airflow_connections import offer
from spark_clusters import applications, standalone, yarn
from waiting import until

from operators.spark_hive import SparkHiveIngestOperator

pytestmark = [pytest.mark.flow(1, 2), pytest.mark.usefixtures("scratch")]

table = test_ingest.table
prices = test_materialize.table


@pytest.fixture(scope="module")
def yarn_cluster(tmp_path_factory):
    with yarn(tmp_path_factory.mktemp("yarn")) as conn:
        yield conn


@pytest.fixture
def cluster(yarn_cluster, table, monkeypatch):
    monkeypatch.setattr(connections, "_CHOSEN", {})
    offer(monkeypatch, yarn_cluster, connection("feast"))
    monkeypatch.setenv("ADIN_CONN_SPARK", yarn_cluster.uri)
    test_ingest.put_good_days()
    return yarn_cluster


def ingest(*, days: int = 4, **more: Any) -> SparkHiveIngestOperator:
    window = f"{test_ingest.DAY:%Y-%m-%d}/{test_ingest.DAY + days * 1440 * test_ingest.MINUTE:%Y-%m-%d}"
    return SparkHiveIngestOperator(
        task_id="t", domain="meters", view="hourly", window=window, poll_interval=0.5, **more
    )


def context() -> dict[str, Any]:
    task = SimpleNamespace(dag_id="d", run_id=uuid4().hex, task_id="t", map_index=-1, xcom_push=lambda **_: None)
    return {"ti": task, "dag_run": SimpleNamespace(triggering_user_name=None)}


def wait(trigger: Any) -> dict[str, Any]:
    """Do what the triggerer does."""

    async def first() -> Any:
        return await anext(aiter(trigger.run()))

    return dict(asyncio.run(first()).payload)


def started(conn, key) -> list[str]:
    return [app for app, told in applications(conn).items() if key in told["applicationTags"]]


def test_a_deferred_ingest_gives_the_partitions_that_a_local_one_gives_and_its_retry_finds_the_application(cluster):
    where = context()
    with pytest.raises(TaskDeferred) as waiting:
        ingest(deferrable=True).execute(where)
    event = wait(waiting.value.trigger)
    operator = ingest(deferrable=True)
    result = operator.resume(where, event)
    assert started(cluster, result["key"]) == [result["application_id"]]
    assert operator.link(event["job"]) == f"{cluster.extra['resourcemanager']}/cluster/app/{event['job']}"
    assert ingest().execute(where) == result, "the retry starts nothing"
    assert started(cluster, result["key"]) == [result["application_id"]]
    with connections.trying(replace(cluster, host="local[2]", extra=cluster.extra | {"conf": {}})):
        assert test_ingest.ingest(0, 4)["partitions"] == result["partitions"]
    assert publish.publish(result)["rows"] == 6
    assert ingest().execute(context())["unchanged"]


def test_what_the_driver_found_wrong_is_told_as_by_a_local_one_and_the_next_try_begins_anew(cluster):
    folder = test_ingest.put(1, [("a", 5.0, 10)], success=False)
    where, operator = context(), ingest()
    with pytest.raises(DataError, match=rf"{folder} is missing or has no _SUCCESS"):
        operator.execute(where)
    test_ingest.put_good_days()
    result = test_ingest.ingest(0, 4, operator.key(where))  # waits here, as all jobs do that are not an operator's
    assert result["partitions"]["2021-05-02"]["rows"] == 2
    assert len(started(cluster, result["key"])) == 2


def test_a_killed_task_kills_its_application_sync_and_deferred_and_a_stop_outside_is_a_failure(cluster):
    def state(app: str) -> str:
        return str(applications(cluster)[app]["state"])

    with pytest.raises(TaskDeferred) as waiting:
        ingest(deferrable=True).execute(context())
    app = waiting.value.trigger.job
    asyncio.run(waiting.value.trigger.on_kill())
    until(lambda: state(app) == "KILLED", seconds=90)

    where, operator = context(), ingest(deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(where)
    with pytest.raises(RunFailedError, match="KILLED"):
        app = operator._job or ""
        operator.on_kill()
        ingest().resume(where, {"job": app, "deadline": 0})
    until(lambda: state(app) == "KILLED", seconds=90)
    assert jobs.result(operator._key or "") is None
    assert hive.partitions("meters.hourly") == {}


def test_a_load_of_the_online_store_on_yarn_writes_what_a_local_one_writes_and_tells_how_far_it_is(
    yarn_cluster, prices, monkeypatch
):
    days = {day: test_materialize.day_of(day, {f"shop-{n}": float(n) for n in range(200)}) for day in (1, 2, 3)}
    test_materialize.publish(prices, days)
    window = test_materialize.window(1, 4)
    online.materialize("shop", "prices", window)
    local = test_materialize.stored()
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    monkeypatch.setenv("ADIN_ONLINE_SPARK_ROWS", "1")
    settings.cache_clear()
    told: list[online.Progress] = []
    with connections.trying(yarn_cluster):
        report = online.materialize("shop", "prices", window, tell=told.append, key="on-yarn")
    assert (report.by, report.rows, report.keys, report.written) == ("spark", 1200, 200, 200)
    assert test_materialize.stored() == local
    assert len(started(yarn_cluster, "online-prices-on-yarn")) == 1
    assert [each for each in told if 0 < each.done < each.total], "not only at the end"
    assert (told[-1].phase, told[-1].done, told[-1].total) == ("write", 1200, 1200)


def test_a_stand_alone_cluster_gives_the_partitions_that_a_local_master_gives(table, tmp_path):
    test_ingest.put_good_days()
    local = test_ingest.ingest(0, 4)
    with standalone(tmp_path) as conn, connections.trying(conn):
        found = test_ingest.ingest(0, 4)
    assert found["application_id"].startswith("app-"), "the name a master gives"
    assert found["partitions"] == local["partitions"]
