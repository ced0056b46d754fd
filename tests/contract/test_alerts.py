"""Alerts in a real Alertmanager: told while they last, taken back, once each, whatever is killed in between."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from adin.airflow import notifiers
from adin.airflow.web import pages, stores
from adin.alerts import Alert, Found, book, outbox
from adin.alerts.sources import LogSource, NoticeSource
from adin.connections import Connection
from adin.errors import DataError, RunFailedError
from adin.models import Registry, registry
from adin.settings import ROOT, settings
from adin.stack.layout import monitoring_binary
from airflow_connections import offer
from model_facts import files, register, validated
from monitoring_servers import AlertmanagerServer, AlertServer, PrometheusServer, Receiver, get, programs
from prometheus_client import start_http_server
from redis_server import free_port
from server_fixtures import PORT_BASE, own_registry
from servers import Servers
from waiting import until

pytestmark = pytest.mark.flow(15, 26)


@pytest.fixture(scope="module", autouse=True)
def monitoring_programs() -> None:
    programs()


@pytest.fixture
def own(stack: dict[str, Connection]) -> Iterator[Servers]:
    """A registry of each test's own: its queue and book are empty."""
    with own_registry(stack) as found:
        yield found


@pytest.fixture
def models(own: Servers) -> Registry:
    return registry(own.database, s3=own.s3)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def alertmanager(tmp_path: Path, receiver: Receiver) -> Iterator[AlertmanagerServer]:
    (tmp_path / "alertmanager").mkdir()
    server = AlertmanagerServer(tmp_path / "alertmanager", receiver)
    yield server
    server.kill()


@pytest.fixture
def service(tmp_path: Path, own: Servers, alertmanager: AlertmanagerServer) -> Iterator[AlertServer]:
    server = AlertServer(tmp_path / "home", PORT_BASE + 50, own.database, own.s3, alertmanager.connection)
    yield server
    server.kill()


def failed(task: str = "gate") -> Alert:
    return Alert(
        name="AdinTaskFailed",
        severity="critical",
        labels={"dag": "features__shop", "task": task},
        summary=f"features__shop: task {task} failed",
        links={"page": "/dags/features__shop"},
        since=datetime.now(UTC),
    )


def put(models: Registry, *notices: outbox.Notice) -> None:
    for notice in notices:
        outbox.put(models.store, notice)


def test_an_alert_is_told_once_again_and_again_while_it_lasts_and_taken_back_when_it_is_over(
    models: Registry, alertmanager: AlertmanagerServer, service: AlertServer, receiver: Receiver
) -> None:
    alertmanager.start()
    service.start()
    put(models, outbox.raised(failed(), actor="test"))
    until(lambda: receiver.count("AdinTaskFailed", "firing"))
    (first,) = alertmanager.alerts()
    until(lambda: alertmanager.alerts()[0]["endsAt"] > first["endsAt"])
    told = receiver.one("AdinTaskFailed")
    assert told["labels"] == {
        "alertname": "AdinTaskFailed",
        "severity": "critical",
        "dag": "features__shop",
        "task": "gate",
    }
    assert told["annotations"]["runbook"] == "docs/monitoring.md#adintaskfailed"
    assert told["annotations"]["page"].endswith("/dags/features__shop")
    put(models, outbox.resolved({"dag": ["features__shop"], "task": ["gate", "load"]}, actor="test", reason="well"))
    until(lambda: receiver.count("AdinTaskFailed", "resolved"))
    until(lambda: not book.load(models.store)[0].alerts)
    assert [(name, status) for name, status, _ in receiver.told] == [
        ("AdinTaskFailed", "firing"),
        ("AdinTaskFailed", "resolved"),
    ]
    metrics = get(f"{service.address}/metrics")
    assert 'adin_alerts_delivered_total{alertname="AdinTaskFailed"} 1.0' in metrics
    assert "adin_alerts_undelivered 0.0" in metrics
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert all({"time", "level", "service", "logger", "message"} <= set(line) for line in lines)
    assert {line["service"] for line in lines} == {"alerts"}
    logged = [(line["dag"], line["task"]) for line in lines if line.get("event") == "alert"]
    assert logged == [("features__shop", "gate")] * 2
    # and for the page: how everything is
    found = book.status(models.store)
    assert found
    assert {each["name"] for each in found["services"]} >= {"postgres", "kserve", "alerts"}
    assert 0 < found["disk"]["free"] <= found["disk"]["size"]
    assert found["queue"] == {"notices": 0}
    assert found["services"] == get(f"{service.address}/status")["services"]


def test_while_alertmanager_is_dead_the_line_goes_on_and_all_that_happened_arrives_later_once(
    models: Registry,
    model: str,
    alertmanager: AlertmanagerServer,
    service: AlertServer,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    alertmanager.start()
    service.start()
    number = register(models, model, files(tmp_path), "run-0")
    until(lambda: "log" in book.load(models.store)[0].positions)
    alertmanager.kill()
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    assert models.state(model).champion == number
    put(models, outbox.raised(failed("short"), actor="test"), outbox.raised(failed("long"), actor="test"))
    put(models, outbox.resolved({"task": ["short"]}, actor="test", reason="well"))
    until(lambda: len(book.load(models.store)[0].alerts) == 3)
    assert all(standing.delivered is None for standing in book.load(models.store)[0].alerts.values())
    alertmanager.start()
    until(lambda: receiver.count("AdinModelPromoted", "resolved"))
    until(lambda: receiver.count("AdinTaskFailed", "resolved", task="short"))
    assert receiver.count("AdinModelPromoted", "firing", model=model, version=str(number)) == 1
    assert receiver.count("AdinTaskFailed", "firing", task="short") == 1
    assert receiver.count("AdinTaskFailed", "firing", task="long") == 1
    assert receiver.count("AdinTaskFailed", "resolved", task="long") == 0


def test_while_prometheus_is_dead_the_line_goes_on_and_what_its_rules_found_is_told_once(
    models: Registry,
    alertmanager: AlertmanagerServer,
    service: AlertServer,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    gone = free_port()
    (tmp_path / "prometheus").mkdir()
    jobs = {"alerts": [service.address.removeprefix("http://")], "push": [f"127.0.0.1:{gone}"]}
    prometheus = PrometheusServer(tmp_path / "prometheus", jobs, alertmanager.connection)
    delivered = "adin_alerts_delivered_total"
    alertmanager.start()
    service.start()
    prometheus.start()
    try:
        until(lambda: receiver.count("AdinTargetDown", "firing", job="push"))
        put(models, outbox.raised(failed("before"), actor="test"))
        until(lambda: prometheus.ask(f"sum({delivered})") == [1.0])
        prometheus.kill()
        put(models, outbox.raised(failed("meanwhile"), actor="test"))
        until(lambda: receiver.count("AdinTaskFailed", "firing", task="meanwhile"))
        prometheus.start()
        # what was counted while nobody looked is not lost, and the rule fires on: nobody is told again
        until(lambda: prometheus.ask(f"sum({delivered})") == [2.0])
        until(lambda: prometheus.ask('ALERTS{alertname="AdinTargetDown", alertstate="firing"}') == [1.0])
        server, thread = start_http_server(gone, addr="127.0.0.1")
        until(lambda: receiver.count("AdinTargetDown", "resolved", job="push"))
        server.shutdown()
        thread.join()
    finally:
        prometheus.kill()
    assert [status for name, status, _ in receiver.told if name == "AdinTargetDown"] == ["firing", "resolved"]
    assert receiver.count("AdinTaskFailed", "firing", task="meanwhile") == 1


def test_an_alert_service_that_is_killed_at_any_moment_loses_nothing_and_tells_nothing_twice(
    models: Registry, alertmanager: AlertmanagerServer, service: AlertServer, receiver: Receiver
) -> None:
    alertmanager.start()
    service.start()
    names = [f"task-{n}" for n in range(8)]

    def work() -> None:
        for name in names:
            put(models, outbox.raised(failed(name), actor="test"))
            time.sleep(0.3)

    working = threading.Thread(target=work)
    working.start()
    while working.is_alive():
        service.kill()
        service.start()
    until(lambda: all(receiver.count("AdinTaskFailed", "firing", task=name) for name in names))
    service.kill()
    put(models, *(outbox.resolved({"task": [name]}, actor="test", reason="well") for name in names[:4]))
    service.start()
    until(lambda: all(receiver.count("AdinTaskFailed", "resolved", task=name) for name in names[:4]))
    assert [receiver.count("AdinTaskFailed", "firing", task=name) for name in names] == [1] * 8
    assert [receiver.count("AdinTaskFailed", "resolved", task=name) for name in names] == [1] * 4 + [0] * 4


def test_what_is_told_while_the_registry_is_down_waits_in_a_folder_and_delays_nobody(
    models: Registry, own: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_HOME", str(tmp_path))
    monkeypatch.setenv("ADIN_REGISTRY_PATIENCE", "1")
    settings.cache_clear()
    try:
        notice = outbox.raised(failed(), actor="test")
        assert not outbox.tell(notice, lambda: (replace(own.database, port=1), own.s3))
        assert len(list(outbox.waiting())) == 1
        source = NoticeSource(models)
        found = source.look(None, datetime.now(UTC))
        assert [alert.key for alert in found.up] == [failed().key]
        assert not list(outbox.waiting())
        # the same notice, entered a second time by a writer that was slow
        put(models, notice)
        again = source.look(found.position, datetime.now(UTC))
        assert [alert.key for alert in again.up] == [failed().key]
        assert outbox.tell(
            outbox.resolved({"task": ["gate"]}, actor="t", reason="well"), lambda: (own.database, own.s3)
        )
        assert not list(outbox.waiting())
        assert source.look(again.position, datetime.now(UTC)).up == []
    finally:
        settings.cache_clear()


def test_both_editions_of_the_registry_keep_queue_and_book(
    edition: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = registry(edition, s3=servers.s3).store
    before = outbox.notices(store, 0)
    outbox.put(store, outbox.raised(failed(), actor="test"))
    assert [each.alert.name for each in outbox.notices(store, 0)[len(before) :] if each.alert] == ["AdinTaskFailed"]
    kept, tag = book.load(store)
    kept.positions["test"] = {"at": 1}
    written, next_tag = book.save(store, kept, tag)
    assert written
    assert not book.save(store, book.Book(), tag)[0]  # another service was faster
    assert book.load(store) == (kept, next_tag)


def test_a_log_tells_promotion_rollback_and_failed_swap_and_what_happened_before_is_not_told(
    models: Registry, model: str, tmp_path: Path
) -> None:
    source, now = LogSource(models), datetime.now(UTC)
    first = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, first, against=None, actor="kfp", reason="better")
    found = source.look(None, now)
    assert (found.happened, found.up) == ([], [])
    second = validated(models, model, files(tmp_path), "run-2")
    models.promote(model, second, against=first, actor="kfp", reason="better")
    models.append(model, "undone", version=second, actor="kfp", reason="the swap failed: 12% of requests failed")
    models.append(model, "rollback", version=first, mode="train_only", actor="duty", reason="complaints")
    found = source.look(found.position, now)
    assert [(alert.name, alert.labels["version"]) for alert in found.happened] == [
        ("AdinModelPromoted", str(second)),
        ("AdinSwapFailed", str(second)),
        ("AdinModelRolledBack", str(first)),
    ]
    assert "12% of requests failed" in found.happened[1].summary
    assert source.look(found.position, now).happened == []


def test_training_that_is_stopped_for_too_long_and_versions_held_in_a_row_are_told_until_that_ends(
    models: Registry, model: str, tmp_path: Path
) -> None:
    source, soon = LogSource(models), datetime.now(UTC) + timedelta(hours=1)
    for n in range(3):
        register(models, model, files(tmp_path), f"run-{n}")
    (held,) = source.look(None, soon).up
    assert (held.name, held.labels) == ("AdinTrainingHeld", {"model": model})
    number = validated(models, model, files(tmp_path), "run-4")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    assert source.look(None, soon).up == []
    models.append(model, "ct_mode", mode="stopped", actor="duty", reason="a strike")
    assert source.look(None, soon).up == []
    (stopped,) = source.look(None, soon + timedelta(days=4)).up
    assert (stopped.name, stopped.labels) == ("AdinTrainingStopped", {"model": model})
    assert "a strike" in stopped.summary
    models.append(model, "ct_mode", mode="auto_deploy", actor="duty", reason="over")
    assert source.look(None, soon + timedelta(days=4)).up == []


def test_the_shipped_rules_and_routings_are_what_prometheus_and_alertmanager_take() -> None:
    folder = ROOT / "deploy" / "prometheus"
    for command in (
        [monitoring_binary("promtool"), "check", "rules", *map(str, sorted(folder.glob("rules/*.yml")))],
        [monitoring_binary("amtool"), "check-config", *map(str, sorted(folder.glob("alertmanager*.yml")))],
        [monitoring_binary("statsd_exporter"), "--check-config", f"--statsd.mapping-config={folder / 'statsd.yml'}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=AdinSwapFailed", "severity=critical"], ["duty"]),
        (["alertname=AdinTrainingHeld", "severity=warning"], ["team"]),
        (["alertname=AdinModelPromoted", "severity=info"], ["channel"]),
    ],
)
def test_the_example_routing_tells_who_it_says(labels: list[str], receivers: list[str]) -> None:
    file = ROOT / "deploy" / "prometheus" / "alertmanager.example.yml"
    command = [monitoring_binary("amtool"), "config", "routes", "test", f"--config.file={file}", *labels]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == receivers


@cache
def training_dag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=ROOT / "dags" / "train.py").dags["train__flights_delay"]


def ended(task: str, error: Exception | None = None) -> dict[str, Any]:
    """Return what a callback gets of a task of the shipped training DAG."""
    dag = training_dag()
    ti = SimpleNamespace(dag_id=dag.dag_id, task_id=task)
    return {"dag": dag, "task": dag.get_task(task), "ti": ti, "run_id": "manual__1", "exception": error}


def callbacks(context: dict[str, Any], kind: str) -> None:
    for callback in getattr(context["task"], f"on_{kind}_callback"):
        callback(context)


def test_a_failed_task_is_told_and_the_end_of_a_later_run_that_went_well_takes_it_back(
    models: Registry, own: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, own.database, own.s3)
    monkeypatch.setenv("ADIN_HOME", str(tmp_path))
    settings.cache_clear()
    source, now = NoticeSource(models), datetime.now(UTC)
    try:
        callbacks(ended("dataset", DataError("3 rows: token=hunter2 delay is null")), "failure")
        callbacks(ended("train", RunFailedError("step evaluate failed")), "failure")
        found = source.look(None, now)
        labels = {"dag": "train__flights_delay", "model": "flights_delay"}
        assert {(each.name, each.labels["task"]) for each in found.up} == {
            ("AdinQualityGateFailed", "dataset"),
            ("AdinTrainingFailed", "train"),
        }
        assert all(labels.items() <= each.labels.items() for each in found.up)
        assert "hunter2" not in str(outbox.notices(models.store, 0))
        monkeypatch.setenv("ADIN_CONN_AMVERSION", own.database.uri)
        monkeypatch.setenv("ADIN_CONN_S3", own.s3.uri)
        run = {"dag_run": {"dag_run_id": "manual__1"}}
        asyncio.run(notifiers.deadline_missed("train__flights_delay", 6, context=run))
        found = source.look(found.position, now)
        assert "AdinDeadlineMissed" in {each.name for each in found.up}
        callbacks(ended("dataset"), "success")  # more is to come in that run
        found = source.look(found.position, now)
        assert len(found.up) == 3
        callbacks(ended("check"), "success")
        assert source.look(found.position, now).up == []
        assert not list(outbox.waiting())
        # where nothing answers, the task ends as it has, and the notice waits
        monkeypatch.delenv("AIRFLOW_CONN_AMVERSION_DEFAULT")
        callbacks(ended("train", RunFailedError("step evaluate failed")), "failure")
        assert len(list(outbox.waiting())) == 1
    finally:
        settings.cache_clear()


def test_the_rules_tell_what_they_promise_and_not_too_early(tmp_path: Path) -> None:
    rules = sorted(map(str, (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")))
    spec = yaml.safe_load((Path(__file__).parent / "rules_test.yml").read_text())
    (tmp_path / "test.yml").write_text(yaml.safe_dump(spec | {"rule_files": rules}))
    command = [monitoring_binary("promtool"), "test", "rules", str(tmp_path / "test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_status_page_shows_alerts_with_their_runbook_to_those_who_may_see_the_model(
    models: Registry, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, tag = book.load(models.store)
    about = failed().model_copy(update={"labels": {"model": model}, "summary": "<b>it failed</b>"})
    kept.take("notices", Found(up=[about]), datetime.now(UTC))
    book.save(models.store, kept, tag)
    monkeypatch.setattr(stores, "models", lambda: models)
    request = SimpleNamespace(scope={"root_path": "/adin"})
    for allowed in (True, False):
        who = SimpleNamespace(may=lambda action, name, allowed=allowed: allowed and name == model)
        page = pages.status(request, who)  # type: ignore[arg-type]
        assert ("&lt;b&gt;it failed&lt;/b&gt;" in page) == allowed
        assert ("docs/monitoring.md#adintaskfailed" in page) == allowed
        assert "has not written anything down yet" in page
    health = {
        "name": "redis",
        "state": "RUNNING",
        "latency": 0.002,
        "restarts": 1,
        "problem": "",
        "last_success": "now",
    }
    view = {"domain": "shop", "view": "prices", "online_until": "2026-01-01T00:00", "lag": 7200.0}
    data = {"problem": "bread", "rows": 7, "created": 0.0}
    status = {"time": "now", "services": [health], "disk": {"free": 5e9, "size": 9e9}, "queue": {"waiting": 3}}
    book.save_status(models.store, status | {"views": [view], "datasets": [data]})
    page = pages.status(request, who)  # type: ignore[arg-type]
    for shown in ("redis", "2 ms", "shop.prices", "2.0 h", "bread: newest dataset, 7 rows", "5.0 GB of 9.0"):
        assert shown in page


def test_every_alert_there_is_has_a_runbook() -> None:
    told = (ROOT / "docs" / "monitoring.md").read_text()
    sources = [ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml", *(ROOT / "include" / "adin").rglob("*.py")]
    names = {
        name for file in sources for name in re.findall(r"[\"' ](Adin[A-Z][a-z]+[A-Z][A-Za-z]+)\b", file.read_text())
    }
    names -= {"AdinError", "AdinModel", "AdinPlugin", "AdinHook"}
    assert len(names) > 15
    assert {name for name in names if f"#### {name}\n" not in told} == set()
