"""One life for every operator: whatever happens on the way, the work is done once, and nothing is left going."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import kube_server
import one_try
import pytest
from adin import connections
from adin.connections import Connection, connection
from adin.datasets import lake
from adin.errors import AdinError, ConfigError, RefusedError, RunFailedError, ServiceError
from adin.pipelines import client
from adin.settings import settings
from adin.stack.layout import program
from airflow.sdk.exceptions import TaskDeferred
from airflow_connections import offer
from fault_proxy import FaultProxy
from kfp_server import LocalKfp
from operator_cases import ABSENT, CASES
from operator_subjects import (
    Ingest,
    Load,
    Merge,
    Promote,
    Retry,
    Revert,
    Run,
    Service,
    Store,
    Subject,
    Tag,
    context,
    impatient,
    spark_on_kubernetes,
    wait_for,
)
from servers import Servers

from operators import external_run
from operators.external_run import ExternalRunTrigger

pytestmark = pytest.mark.filterwarnings("ignore")
HERE = (
    "KfpRun",
    "KfpRetry",
    "LakefsMerge",
    "LakefsTag",
    "LakefsRevert",
    "ClickHouseLoad",
    "AmversionPromote",
    "InferenceService",
    "SparkOnKubernetes",
)
#: Settings under which a fault is met in seconds.
SHORT = dict.fromkeys(("registry_patience", "connect_timeout", "read_timeout"), 1)


@pytest.fixture(scope="module")
def kfp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    server = LocalKfp(tmp_path_factory.mktemp("kfp"), program("python", ".venv-ml")).start()
    yield server.conn
    server.stop()


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pipelines, compiled where there is a compiler."""
    folder = tmp_path_factory.mktemp("compiled")
    code = (
        "import kfp_pipelines as p; from kfp import compiler\n"
        f"for name in ('quick', 'slow', 'awaits', 'awaits_long'):\n"
        f"    compiler.Compiler().compile(getattr(p, name), {str(folder)!r} + f'/{{name}}.yaml')"
    )
    subprocess.run(
        [program("python", ".venv-ml"), "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent, timeout=120
    )
    return folder


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A Kubernetes API server with KServe's resources, without controllers."""
    with kube_server.kubernetes(tmp_path_factory.mktemp("kubernetes")) as conn:
        yield conn


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FaultProxy]:
    """Return a function that puts a proxy before a server and makes it Airflow's connection."""

    def declare(conn: Connection) -> None:
        offer(monkeypatch, conn)

    return declare


@pytest.fixture
def subject(request: pytest.FixtureRequest, use: Callable[[Connection], None], tmp_path: Path) -> Iterator[Subject]:
    """Make the operator's piece of work, and see that it is gone afterwards."""
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(connections, "_CHOSEN", {})  # what a task has chosen is nobody else's
    for name, value in SHORT.items():
        monkeypatch.setitem(vars(settings()), name, value)  # settings are frozen
    monkeypatch.setattr(external_run, "_PATIENCE", 1)
    for module in (external_run, client, lake):
        monkeypatch.setattr(module, "_LOOK_AGAIN", (0.1, 0.3))
    name = request.param
    with _proxies(request, name, use) as (proxy, parts):
        made: Any = {
            "KfpRun": lambda: Run(proxy, parts["pipelines"], tmp_path, parts["direct"]),
            "KfpRetry": lambda: Retry(proxy, parts["pipelines"], tmp_path, parts["direct"]),
            "LakefsMerge": lambda: Merge(proxy, parts["direct"]),
            "LakefsTag": lambda: Tag(proxy, parts["direct"]),
            "LakefsRevert": lambda: Revert(proxy, parts["direct"]),
            "ClickHouseLoad": lambda: Load(proxy, parts["source"], parts["lake"], parts["direct"]),
            "AmversionPromote": lambda: Promote(proxy, parts["direct"], parts["where"], tmp_path),
            "InferenceService": lambda: Service(proxy, parts["direct"]),
            "SparkOnKubernetes": lambda: Ingest(proxy, parts["direct"]),
        }[name]()
        yield made
        made.mend()
        getattr(made, "close", lambda: None)()


class _proxies:
    """The proxies an operator's work goes through, and what else it needs."""

    def __init__(self, request: pytest.FixtureRequest, name: str, use: Callable[[Connection], None]) -> None:
        self._request, self._name, self._use = request, name, use
        self._open: list[FaultProxy] = []

    def __enter__(self) -> tuple[FaultProxy, dict[str, Any]]:
        value = self._request.getfixturevalue
        if self._name.startswith("Kfp"):
            direct = value("kfp")
            return self._proxy(direct), {"direct": direct, "pipelines": value("pipelines")}
        if self._name == "AmversionPromote":
            servers: Servers = value("servers")
            where = Connection("amversion", schema=servers.bucket, extra={"edition": "files"})
            self._use(where)
            patient = replace(servers.s3, extra={**servers.s3.extra, "read_timeout": 60})  # it races the store
            return self._proxy(servers.s3), {"direct": patient, "where": where}
        if self._name == "InferenceService":
            direct = value("kube")
            proxy = FaultProxy(direct)
            self._open.append(proxy)
            value("monkeypatch").setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", _kube_config(proxy.conn))
            return proxy, {"direct": direct}
        if self._name == "SparkOnKubernetes":
            direct = value("kube")
            proxy = FaultProxy(direct)
            self._open.append(proxy)
            self._use(spark_on_kubernetes(proxy.conn))
            self._use(connection("feast"))
            value("monkeypatch").setenv("ADIN_FEATURE_REPO", str(Ingest.repository))
            value("monkeypatch").setitem(vars(settings()), "feature_repo", Ingest.repository)
            return proxy, {"direct": direct}
        lakefs = connection("lakefs")
        if self._name == "ClickHouseLoad":
            direct = connection("clickhouse")
            source = self._proxy(lakefs)
            return self._proxy(direct), {"direct": direct, "source": source, "lake": lakefs}
        return self._proxy(lakefs), {"direct": lakefs}

    def __exit__(self, *_: object) -> None:
        for proxy in self._open:
            proxy.__exit__()

    def _proxy(self, conn: Connection) -> FaultProxy:
        proxy = FaultProxy(conn)
        self._open.append(proxy)
        self._use(impatient(proxy.conn))
        return proxy


def _kube_config(conn: Connection) -> str:
    """Return a connection of Airflow's Kubernetes provider that leads to a proxy."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{conn.host}:{conn.port}"}}],
        "users": [{"name": "u", "user": {"token": conn.password}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(config)}})


def cell(case: str) -> Any:
    """Run a test for each operator for which its case makes sense."""
    chosen = [
        pytest.param(name, marks=pytest.mark.case(name, case), id=name) for name in HERE if case not in ABSENT[name]
    ]
    return pytest.mark.parametrize("subject", chosen, indirect=True)


def worker(subject: Subject) -> ForkServerProcess:
    """Run one try in a process of its own."""
    where = context()["ti"]
    return one_try.start(subject.kind, subject.arguments, dag=where.dag_id, run=where.run_id, settings=SHORT)


def test_every_case_of_the_matrix_is_run_for_an_operator_or_said_to_make_no_sense_for_it():
    here = {
        (param.values[0], mark.args[1])
        for test in globals().values()
        for each in getattr(test, "pytestmark", ())
        if each.name == "parametrize"
        for param in each.args[1]
        for mark in param.marks
    }
    wanted = {(name, case) for name in HERE for case in CASES if case not in ABSENT[name]}
    assert here == wanted
    assert all(reason.endswith(".") for reasons in ABSENT.values() for reason in reasons.values())


@cell("fresh")
def test_a_fresh_task_does_its_work_once(subject: Subject) -> None:
    subject.check(subject.run())
    assert subject.works() == 1


@cell("retry")
def test_a_retry_goes_on_with_the_work_of_the_try_before(subject: Subject) -> None:
    """The first try loses its server as soon as the work has begun."""
    subject.proxy.fault("call", subject.submit, do=lambda: subject.proxy.fault("lose"))
    store = Store()
    try:
        subject.run(store=store)
    except AdinError:
        assert subject.proxy.count(subject.submit) == 1
    subject.mend()
    subject.check(subject.run(store=store))
    assert subject.works() == 1


@cell("killed_unstored")
def test_a_worker_killed_after_the_start_and_before_it_knew_the_id_leaves_work_that_the_retry_finds(
    subject: Subject,
) -> None:
    held = subject.proxy.fault("hold", subject.submit, times=1)
    process = worker(subject)
    assert held.met.wait(120)
    process.kill()
    assert one_try.ended(process, 10) == -signal.SIGKILL
    subject.mend()
    subject.check(subject.run())
    assert subject.works() == 1


@cell("reply_lost")
def test_a_lost_answer_to_the_start_doubles_nothing(subject: Subject) -> None:
    lost = subject.proxy.fault("lose", subject.submit, times=1)
    try:
        result = subject.run()
    except ServiceError:
        result = subject.run()
    assert lost.met.is_set()
    subject.check(result)
    assert subject.works() == 1


@cell("already_done")
def test_work_that_ended_while_nobody_looked_is_found_ended(subject: Subject) -> None:
    first = subject.run()
    before = subject.proxy.count(subject.submit)
    again = subject.run()
    subject.check(again)
    assert {**_told(again), "loaded": None} == {**_told(first), "loaded": None}
    assert subject.proxy.count(subject.submit) == before


@cell("failed_outside")
def test_work_that_fails_in_the_target_fails_the_task_and_leaves_nothing_half_made(subject: Subject) -> None:
    subject.let_fail()
    with pytest.raises(AdinError):
        subject.run()
    if isinstance(subject, Load):
        assert subject.works() == 0


@cell("cancelled_outside")
def test_work_that_somebody_cancels_in_the_target_is_a_failure(subject: Subject) -> None:
    subject.let_last()
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(subject.run)
        wait_for(subject.going)
        subject.stop_outside()
        # what another has put in its place is refused for good: a retry must not put it over that
        with pytest.raises((RefusedError, RunFailedError, ServiceError)):
            trying.result(60)
    wait_for(subject.stopped)


@cell("vanished")
def test_work_that_vanishes_from_the_target_is_told_so(subject: Any) -> None:
    subject.let_last()
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(subject.run)
        wait_for(subject.going)
        subject.vanish()
        with pytest.raises(RunFailedError, match="vanished"):
            trying.result(60)


@cell("http_401")
def test_a_refused_sign_in_is_for_a_person_to_mend(subject: Subject) -> None:
    subject.proxy.fault("answer", **subject.denied)
    with pytest.raises(ConfigError) as told:
        subject.run()
    assert not told.value.retryable


@cell("http_429")
def test_a_server_that_is_busy_is_asked_again(subject: Subject) -> None:
    busy = subject.proxy.fault("answer", subject.read, status=429, times=1)
    subject.check(subject.run())
    assert busy.met.is_set()
    assert subject.works() == 1


@cell("http_500")
def test_a_server_that_fails_is_left_to_the_next_try(subject: Subject) -> None:
    subject.proxy.fault("answer", status=500)
    with pytest.raises(ServiceError):
        subject.run()
    subject.mend()
    subject.check(subject.run())
    assert subject.works() == 1


@cell("hang")
def test_a_server_that_never_answers_is_given_up_in_time(subject: Subject) -> None:
    subject.proxy.fault("hang")
    with pytest.raises(ServiceError):
        subject.run()
    subject.mend()
    subject.check(subject.run())
    assert subject.works() == 1


@cell("down_up")
def test_a_server_that_was_down_gets_the_work_from_the_next_try(subject: Subject) -> None:
    subject.proxy.down()
    with pytest.raises(ServiceError):
        subject.run()
    subject.proxy.up()
    subject.check(subject.run())
    assert subject.works() == 1


@cell("kill_sync")
def test_killing_the_task_stops_the_work_or_finds_it_whole(subject: Subject) -> None:
    """Work that lasts is stopped in the target; a single request was carried out, and the next try finds it."""
    subject.let_last()
    lasts = type(subject).let_last is not Subject.let_last
    held = None if lasts else subject.proxy.fault("hold", subject.submit, times=1)
    process = worker(subject)
    wait_for(subject.going if held is None else held.met.is_set)
    process.terminate()
    if held is None:
        wait_for(subject.stopped)
        assert one_try.ended(process, 30) == 1
        return
    assert one_try.ended(process, 30) == 1
    subject.mend()
    subject.check(subject.run())
    assert subject.works() == 1


def deferred(subject: Subject) -> ExternalRunTrigger:
    with pytest.raises(TaskDeferred) as found:
        subject.run(deferrable=True)
    return found.value.trigger


@cell("kill_deferred")
def test_killing_a_deferred_task_cancels_the_work(subject: Subject) -> None:
    subject.let_last()
    trigger = deferred(subject)
    wait_for(subject.going)
    _, arguments = trigger.serialize()
    asyncio.run(ExternalRunTrigger(**arguments).on_kill())
    wait_for(subject.stopped)


@cell("triggerer_restart")
def test_a_triggerer_that_restarts_neither_cancels_nor_doubles_the_work(subject: Subject) -> None:
    trigger = deferred(subject)
    _, arguments = trigger.serialize()

    async def interrupted() -> None:
        subject.proxy.fault("hold", "^GET /apis/v2beta1/runs/", times=1)
        waiting = asyncio.ensure_future(anext(aiter(trigger.run())))
        await asyncio.sleep(0.2)
        waiting.cancel()
        subject.mend()
        await trigger.cleanup()

    async def again() -> Any:
        return (await anext(aiter(ExternalRunTrigger(**arguments).run()))).payload

    asyncio.run(interrupted())
    event = asyncio.run(again())
    subject.check(subject.operator().resume(context(), event))
    assert subject.works() == 1


@cell("clear")
def test_a_cleared_task_goes_on_with_its_work_unless_it_asks_for_new_work(subject: Subject) -> None:
    store = Store()
    subject.run(store=store)
    subject.run(store=store)
    assert subject.works() == 1
    subject.check(subject.run(store=store, renew="1"))
    assert subject.works() == subject.renewed


@cell("twice")
def test_a_backfill_done_twice_leaves_the_same(subject: Subject) -> None:
    subject.run("backfill__1")
    subject.check(subject.run("backfill__2"))
    assert subject.works() == subject.twice


def _told(result: Any) -> dict[str, Any]:
    return dict(result) if isinstance(result, dict) else {"result": result}
