"""What local KFP says to requests that make no sense, and that one bad thing never holds up the others."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adin.pipelines import compiled
from adin.stack.kfp import spec as specs
from adin.stack.kfp.api import app
from adin.stack.kfp.runs import Runs
from adin.stack.kfp.schedule import Schedule
from adin.stack.kfp.store import Store
from starlette.testclient import TestClient

pytestmark = [pytest.mark.ml, pytest.mark.flow(22), pytest.mark.filterwarnings("ignore")]

API = "/apis/v2beta1"
SPEC = specs.read(compiled("rollback").read_bytes())
WHOLE = {"pipeline_spec": SPEC, "runtime_config": {"parameters": {"model": "m", "target": "1"}}}
EVERY_SECOND = {"periodic_schedule": {"interval_second": "1"}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "kfp.sqlite")
    yield store
    store.close()


@pytest.fixture
def runs(store: Store, tmp_path: Path) -> Runs:
    return Runs(store, tmp_path, 2)


@pytest.fixture
def schedule(store: Store, runs: Runs) -> Schedule:
    return Schedule(store, runs)


@pytest.fixture
def client(store: Store, runs: Runs, schedule: Schedule) -> TestClient:
    return TestClient(app(store, runs, schedule, "word"), headers={"Authorization": "Bearer word"})


def token(page: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(page).encode()).decode()


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("recurringruns", {"max_concurrency": "many", "trigger": EVERY_SECOND}, "max_concurrency"),
        ("recurringruns", {"trigger": "daily"}, "trigger"),
        ("recurringruns", {"trigger": {"periodic_schedule": "x"}}, "periodic_schedule"),
        ("recurringruns", {"trigger": {"periodic_schedule": {"interval_second": "5", "start_time": 5}}}, "start_time"),
        ("recurringruns", {"trigger": {"cron_schedule": {"cron": "0 0 0 30 2 *"}}}, "never comes"),
        ("recurringruns", {"trigger": EVERY_SECOND, "display_name": ["x"]}, "display_name"),
        ("runs", {"pipeline_spec": {"pipelineInfo": "x"}}, "pipelineInfo"),
        ("runs", {"pipeline_spec": {"pipelineInfo": {"name": "x"}, "root": []}}, "no tasks"),
        ("runs", {"runtime_config": "x"}, "runtime_config"),
        ("runs", {"runtime_config": {"parameters": ["model"]}}, "parameters"),
        ("runs", {"pipeline_version_reference": {"pipeline_id": {"a": 1}}}, "pipeline_id"),
        ("runs", {"experiment_id": 5}, "experiment_id"),
        ("pipelines/create", {"pipeline": "x", "pipeline_version": WHOLE}, "pipeline"),
    ],
)
def test_a_request_of_another_shape_is_refused_and_the_field_named(
    client: TestClient, path: str, body: dict[str, Any], said: str
) -> None:
    answer = client.post(f"{API}/{path}", json={"display_name": "x", **WHOLE, **body})
    assert (answer.status_code, said in answer.json()["message"]) == (400, True), answer.text


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"x")[:12], b"[" * 3000, b"pipelineInfo: {name: x}\nroot: {dag: {tasks: {a: 2013-01-01}}}", b"5"],
    ids=["cut off", "too deep", "with a date", "a number"],
)
def test_a_file_that_is_no_pipeline_is_refused(client: TestClient, content: bytes) -> None:
    answer = client.post(f"{API}/pipelines/upload", files={"uploadfile": ("p.yaml", content)})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("page", [[1], {"after": [1]}, {"sort_by": 5}, {"after": [{"a": 1}, 2]}])
def test_a_page_token_of_somebody_elses_is_refused(client: TestClient, page: Any) -> None:
    answer = client.get(f"{API}/runs", params={"page_token": token(page)})
    assert (answer.status_code, "page token" in answer.json()["message"]) == (400, True)


def test_a_run_that_names_no_experiment_has_one_although_the_default_was_deleted(client: TestClient) -> None:
    first = client.get(f"{API}/experiments").json()["experiments"][0]
    assert client.delete(f"{API}/experiments/{first['experiment_id']}").status_code == 200
    made = client.post(f"{API}/runs", json={"display_name": "x", **WHOLE}).json()
    (again,) = client.get(f"{API}/experiments").json()["experiments"]
    assert made["experiment_id"] == again["experiment_id"] != first["experiment_id"]


def recurring(client: TestClient, name: str) -> str:
    body = {"display_name": name, "mode": "ENABLE", "trigger": EVERY_SECOND, **WHOLE}
    return str(client.post(f"{API}/recurringruns", json=body).json()["recurring_run_id"])


def test_a_recurring_run_that_cannot_be_started_is_disabled_and_the_others_fire(
    client: TestClient, store: Store, schedule: Schedule
) -> None:
    bad, good = recurring(client, "bad"), recurring(client, "good")
    for key, trigger in ((bad, {"cron_schedule": {"cron": "0 0 0 30 2 *"}}), (good, EVERY_SECOND)):
        doc = store.get("recurring run", key)
        store.put("recurring run", key, doc | {"trigger": trigger, "created_at": "2013-01-01T00:00:00.000000Z"})
    schedule.tick()
    assert [run["recurring_run_id"] for run in store.find("run")] == [good]
    left = store.get("recurring run", bad)
    assert left["status"] == "DISABLED"
    assert "CroniterBadDateError" in left["error"]["message"]


def test_a_recurring_run_deleted_just_when_it_is_due_stays_deleted(
    client: TestClient, store: Store, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = recurring(client, "short")
    doc = store.get("recurring run", key)
    store.put("recurring run", key, doc | {"created_at": "2013-01-01T00:00:00.000000Z"})
    due = store.find("recurring run")
    monkeypatch.setattr(store, "find", lambda *_, **__: due)  # what the engine has read a moment before
    assert client.delete(f"{API}/recurringruns/{key}").status_code == 200
    schedule.tick()
    assert store.select("recurring run") == []
    assert store.select("run") == []


def test_a_run_that_cannot_be_started_holds_up_no_other(
    client: TestClient, store: Store, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(attempt: Any, *_: Any) -> None:
        if store.get("run", attempt.run_id)["display_name"] == "bad":
            raise OSError("no space left on device")
        started.append(attempt.run_id)

    monkeypatch.setattr("adin.stack.kfp.runs.Attempt.start", start)
    for name in ("bad", "good"):
        client.post(f"{API}/runs", json={"display_name": name, **WHOLE})
    runs.tick()
    assert [store.get("run", key)["display_name"] for key in started] == ["good"]
