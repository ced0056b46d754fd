"""The operators that need the whole stack: done once, whatever becomes of the worker. See tests/contract."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from adin.connections import NAMES, connection
from adin.errors import NotFoundError
from adin.features import hdfs, jobs, repo
from adin.features.offline import offline
from adin.models import registry
from adin.serving.client import ServingClient

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from operators.feast import FeastApplyOperator, FeastMaterializeOperator
from operators.kserve import KserveDeployOperator
from operators.lakefs import BuildDatasetOperator
from operators.spark_hive import SparkHiveIngestOperator

DAY = "2013-03-01T00:00:00Z/2013-03-02T00:00:00Z"
pytestmark = [pytest.mark.flow(22), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _airflow_connections(monkeypatch):
    for name in NAMES:
        conn = connection(name)
        told = {
            "conn_type": f"adin_{name}",
            "host": conn.host,
            "port": conn.port,
            "login": conn.login,
            "password": conn.password,
            "schema": conn.schema,
            "extra": dict(conn.extra),
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DEFAULT", json.dumps(told))


@pytest.fixture(scope="module")
def features():
    """One day of features of flights, published."""
    from adin.features import publish

    domain = repo.domain("flights")
    for view in (*domain.views, *domain.labels):
        result = jobs.run("ingest", key=f"ops-{uuid4().hex}", arguments=_ingest(view.name))
        publish.publish(result)
    return domain


def _ingest(view: str) -> dict[str, str]:
    return {"domain": "flights", "view": view, "window": DAY}


def _view() -> str:
    return repo.domain("flights").views[0].name


class Work:
    """An operator, its arguments, how often its work was done, and what its target holds."""

    def __init__(self, kind: type, count: Any, state: Any, **arguments: Any) -> None:
        self.kind, self.count, self.state, self.arguments = kind, count, state, arguments
        self.run_id = f"run__{uuid4().hex}"

    def operator(self, **more: Any) -> Any:
        return self.kind(task_id="t", **self.arguments, **more)

    def context(self, run_id: str = "") -> dict[str, Any]:
        task = SimpleNamespace(
            dag_id="ops", run_id=run_id or self.run_id, task_id="t", map_index=-1, xcom_push=lambda **_: None
        )
        return {"ti": task, "dag_run": SimpleNamespace(triggering_user_name=None), "params": {}}

    def run(self, run_id: str = "", **more: Any) -> Any:
        return self.operator(**more).execute(self.context(run_id))


def _staged(work: Work, result: Any) -> int:
    root = result["location"].rpartition("/")[0]
    key = work.operator().key(work.context())
    return sum(name.startswith(f"{key}.") for name in hdfs.folders(root))


def make(name: str) -> Work:
    if name == "SparkHiveIngest":
        view = _view()
        return Work(SparkHiveIngestOperator, _staged, lambda r: r["partitions"], **_ingest(view))
    if name == "FeastApply":
        nothing = {"added", "changed"}
        return Work(FeastApplyOperator, lambda *_: 1, lambda r: sorted(nothing & set(r)), domain="flights")
    if name == "FeastMaterialize":
        return Work(
            FeastMaterializeOperator, lambda *_: 1, lambda r: r["entities"], domain="flights", view=_view(), window=DAY
        )
    if name == "BuildDataset":
        from adin import datasets

        return Work(
            BuildDatasetOperator,
            lambda work, result: [v.commit for v in datasets.versions("flights_delay")].count(result["commit"]),
            lambda r: r["commit"],
            problem="flights_delay",
            window=DAY,
        )
    return Work(
        KserveDeployOperator,
        lambda work, result: [
            (entry.event, entry.version) for entry in registry().log("flights_delay")
        ].count(("served", result["version"])),
        lambda r: (r["version"], ServingClient().status("flights_delay")),
        model="flights_delay",
    )


NAMES_HERE = ("KserveDeploy", "SparkHiveIngest", "FeastApply", "FeastMaterialize", "BuildDataset")


def cell(case: str) -> Any:
    chosen = [pytest.param(name, marks=pytest.mark.case(name, case), id=name) for name in NAMES_HERE]
    return pytest.mark.parametrize("work", chosen, indirect=True)


@pytest.fixture
def work(request, features):
    if request.param == "KserveDeploy":
        try:
            if registry().state("flights_delay").champion is None:
                raise NotFoundError("no champion")
        except NotFoundError:
            pytest.skip("a champion is made by the acceptance tests; there is none on this stack")
    return make(request.param)


@cell("fresh")
def test_a_fresh_task_on_the_stack_does_its_work_once(work):
    result = work.run()
    assert work.count(work, result) >= 1
    assert work.state(result) == work.state(result)


@cell("retry")
def test_a_retry_on_the_stack_returns_what_the_first_try_made(work):
    first, again = work.run(), work.run()
    assert work.state(again) == work.state(first)
    assert work.count(work, again) == work.count(work, first)


@cell("already_done")
def test_work_on_the_stack_that_ended_while_nobody_looked_is_found(work):
    first = work.run()
    assert work.state(work.run()) == work.state(first)


@cell("kill_sync")
def test_killing_a_task_on_the_stack_leaves_nothing_going_and_the_next_try_completes(work):
    def trying() -> None:
        operator = work.operator()
        signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
        try:
            operator.execute(work.context())
        except BaseException:
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=trying)
    process.start()
    time.sleep(3)
    process.terminate()
    process.join(60)
    assert process.exitcode in (0, 1)
    key = work.operator().key(work.context())
    assert not _processes_of(key), "a Spark job goes on without its task"
    assert work.count(work, work.run()) >= 1


@cell("clear")
def test_a_cleared_task_on_the_stack_gives_the_same_unless_it_asks_for_new_work(work):
    first = work.run()
    assert work.state(work.run(renew="1")) == work.state(first)


@cell("twice")
def test_a_backfill_on_the_stack_done_twice_leaves_the_same(work):
    first = work.run()
    assert work.state(work.run("backfill__2")) == work.state(first)
    assert offline().partitions(repo.domain("flights").view(_view()).table)


def _processes_of(key: str) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if key in " ".join(process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return found
