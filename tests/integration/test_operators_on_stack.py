"""The operators that need the whole stack: done once, whatever becomes of the worker."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import one_try
import psutil
import pytest
import test_ingest
import test_materialize
from adin import connections, datasets
from adin.connections import connection
from adin.datasets.lake import Lake
from adin.features import hdfs, hive, store
from airflow_connections import offer
from operator_cases import ABSENT
from oracle import WINDOW, all_cases, write
from waiting import until

from operators.feast import FeastApplyOperator, FeastMaterializeOperator
from operators.lakefs import BuildDatasetOperator
from operators.spark_hive import SparkHiveIngestOperator

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("scratch")]

#: One run for most tests: a Spark job takes its time, and its result is found by whoever asks for the same work.
RUN = f"run-{uuid4().hex}"

prices = test_materialize.table


@dataclass
class Work:
    """A piece of work.

    :param count: returns how often it was done, as the target shows it.
    :param same: takes of a result what must be equal whenever the work is done.
    """

    kind: type
    arguments: dict[str, Any]
    count: Callable[[Any], int]
    same: Callable[[Any], Any]

    def operator(self, **more: Any) -> Any:
        return self.kind(task_id="t", **self.arguments, **more)

    def run(self, run_id: str = RUN, **more: Any) -> Any:
        return self.operator(**more).execute(context(run_id))


def context(run_id: str = RUN) -> dict[str, Any]:
    task = SimpleNamespace(dag_id="ops", run_id=run_id, task_id="t", map_index=-1, xcom_push=lambda **_: None)
    return {"ti": task, "dag_run": SimpleNamespace(triggering_user_name=None), "params": {}}


@pytest.fixture(scope="module")
def meters(scratch):
    """Raw days of the domain ``meters``."""
    hive.drop_table("meters.hourly")
    test_ingest.put_good_days()
    yield
    hive.drop_table("meters.hourly")
    hdfs.delete(hive.table_folder("meters.hourly"))


@pytest.fixture(scope="module")
def joins(scratch, write_features, tmp_path_factory):
    """Features and events of the problem ``joins``, applied to a registry of the tests' own."""
    write(write_features, *all_cases(7), random.Random(1))
    registry = f"sqlite:///{tmp_path_factory.mktemp('feast') / 'registry.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_FEAST", replace(connection("feast"), extra={"registry": registry}).uri)
        store.apply("adin_scratch")
        yield


@pytest.fixture
def work(request, monkeypatch) -> Work:
    made: Work = {
        "SparkHiveIngest": _ingest,
        "FeastApply": _apply,
        "FeastMaterialize": _materialize,
        "BuildDataset": _build,
    }[request.param](request)
    monkeypatch.setattr(connections, "_CHOSEN", {})
    offer(monkeypatch, *map(connection, made.kind.connections))
    return made


def _ingest(request) -> Work:
    request.getfixturevalue("meters")
    start, end = (f"{test_ingest.DAY + n * 1440 * test_ingest.MINUTE:%Y-%m-%dT00:00:00Z}" for n in (0, 2))
    arguments = {"domain": "meters", "view": "hourly", "window": f"{start}/{end}"}

    def staged(result: Any) -> int:
        root, _, own = result["location"].rpartition("/")
        return sum(name.startswith(own.partition(".")[0]) for name in hdfs.folders(root))

    return Work(
        SparkHiveIngestOperator,
        arguments,
        staged,
        lambda result: {day: part["fingerprint"] for day, part in result["partitions"].items()},
    )


def _apply(request) -> Work:
    request.getfixturevalue("prices")
    # applied by the fixture to another registry; this patch must end before the fixture's own
    registry = f"sqlite:///{request.getfixturevalue('tmp_path') / 'empty.db'}"
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setenv("ADIN_CONN_FEAST", replace(connection("feast"), extra={"registry": registry}).uri)

    def views(_: Any) -> list[str]:
        assert not store.plan("shop").changes
        return sorted(each.name for each in store.registered() if type(each).__name__ == "FeatureView")

    return Work(FeastApplyOperator, {"domain": "shop"}, lambda result: views(result).count("prices"), views)


def _materialize(request) -> Work:
    table = request.getfixturevalue("prices")
    test_materialize.publish(table, {1: test_materialize.day_of(1, {"a": 1.0, "b": 2.0})})
    window = test_materialize.window(1, 2)

    def loaded(_: Any) -> int:
        assert [test_materialize.price(shop) for shop in ("a", "b")] == [1.0, 2.0]
        return store.intervals("prices").count(window)

    arguments = {"domain": "shop", "view": "prices", "window": str(window)}
    return Work(FeastMaterializeOperator, arguments, loaded, lambda _: test_materialize.stored())


def _build(request) -> Work:
    request.getfixturevalue("joins")

    def committed(result: Any) -> int:
        digest = Lake().metadata(result["commit"])["adin_inputs"]
        return sum((c.metadata or {}).get("adin_inputs") == digest for c in Lake().log("joins"))

    arguments = {"problem": "joins", "window": str(WINDOW)}
    return Work(
        BuildDatasetOperator, arguments, committed, lambda result: datasets.version("joins", result["commit"]).rows
    )


def cell(case: str) -> Any:
    """Run a test for each operator, as a cell of the matrix."""
    names = ("SparkHiveIngest", "FeastApply", "FeastMaterialize", "BuildDataset")
    wanted = [name for name in names if case not in ABSENT[name]]
    chosen = [pytest.param(name, marks=pytest.mark.case(name, case), id=name) for name in wanted]
    return pytest.mark.parametrize("work", chosen, indirect=True)


@cell("fresh")
def test_a_fresh_task_on_the_stack_does_its_work_once(work):
    assert work.count(work.run()) == 1


@cell("retry")
def test_a_retry_on_the_stack_goes_on_with_the_work_of_the_try_before(work):
    first, again = work.run(), work.run()
    assert work.same(again) == work.same(first)
    assert work.count(again) == 1


@cell("already_done")
def test_work_on_the_stack_that_ended_while_nobody_looked_is_found(work):
    """The first try's process dies with its result; the next starts nothing anew."""
    process = _worker(work)
    assert one_try.ended(process, 300) == 0
    assert work.count(work.run()) == 1


@cell("kill_sync")
def test_killing_a_task_on_the_stack_leaves_nothing_going_and_the_next_try_completes(work):
    run_id = f"killed-{uuid4().hex}"
    at_work = one_try.event()
    process = _worker(work, run_id, at_work=at_work)
    key = work.operator().key(context(run_id))
    assert at_work.wait(120)
    until(lambda: work.kind is not SparkHiveIngestOperator or _processes_of(key), seconds=120)
    process.terminate()
    assert one_try.ended(process, 60) == 1
    until(lambda: not _processes_of(key), seconds=30)
    assert work.count(work.run(run_id)) == 1


@cell("clear")
def test_a_cleared_task_on_the_stack_gives_the_same_also_where_it_asks_for_new_work(work):
    first = work.run()
    assert work.same(work.run(renew=uuid4().hex)) == work.same(first)


@cell("twice")
def test_a_backfill_on_the_stack_done_twice_leaves_the_same(work):
    first = work.run()
    assert work.same(work.run(f"backfill-{uuid4().hex}")) == work.same(first)


def _worker(work: Work, run_id: str = RUN, **more: Any) -> ForkServerProcess:
    return one_try.start(work.kind, work.arguments, dag="ops", run=run_id, **more)


def _processes_of(key: str) -> list[int]:
    running = psutil.process_iter(["pid", "cmdline"])
    return [process.info["pid"] for process in running if key in " ".join(process.info["cmdline"] or ())]
