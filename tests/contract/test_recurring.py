"""Kubeflow owns the schedule: which of a problem's two recurring runs goes follows the mode, whatever was before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from adin import control
from adin.connections import Connection
from adin.control import recurring
from adin.models import Registry, registry
from adin.pipelines import compiled
from adin.pipelines.client import KfpClient
from adin.settings import settings
from kfp_server import LocalKfp
from model_facts import files, register
from server_fixtures import own_registry

pytestmark = [pytest.mark.ml, pytest.mark.flow(18, 22)]

NAME = "owned"
DEPLOY, TRAIN = "train_and_deploy", "train_only"


@pytest.fixture(scope="module")
def kfp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKfp]:
    server = LocalKfp(tmp_path_factory.mktemp("kfp")).start()
    yield server
    server.stop()


@pytest.fixture
def client(kfp_server: LocalKfp, monkeypatch: pytest.MonkeyPatch) -> KfpClient:
    monkeypatch.setenv("ADIN_CONN_KFP", kfp_server.conn.uri)
    client = KfpClient()
    for each in client.recurring():
        client.drop_recurring(each.recurring_run_id)
    return client


@pytest.fixture
def models(stack: dict[str, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry, of the test's own, in which the model has one version."""
    with own_registry(stack) as found:
        monkeypatch.setenv("ADIN_CONN_S3", found.s3.uri)
        monkeypatch.setenv("ADIN_CONN_AMVERSION", found.database.uri)
        models = registry()
        register(models, NAME, files(tmp_path / "files"), "run-1")
        yield models


@pytest.fixture
def schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Write the problem with a schedule."""
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path / "problems"))
    settings.cache_clear()

    def write(**run: Any) -> None:
        folder = tmp_path / "problems" / NAME
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "name": NAME,
            "task": "binary",
            "description": "A problem whose schedule Kubeflow owns.",
            "owner": "tests",
            "domain": "flights",
            "features": "flights_delay",
            "label": {"table": "flights.outcomes", "column": "late_15"},
            "event_time": "at",
            "run": run,
            "promotion": {"primary": "log_loss"},
            "example": {"carrier": "UA"},
        }
        (folder / "problem.yaml").write_text(yaml.safe_dump(spec))

    yield write
    settings.cache_clear()


def enabled(client: KfpClient) -> list[str]:
    """Return the pipelines whose recurring runs Kubeflow itself shows as enabled."""
    return sorted(each.display_name.split(".")[2] for each in client.recurring() if each.status == "ENABLED")


def test_stop_and_resume_disable_and_enable_the_recurring_run_of_the_mode(
    models: Registry, client: KfpClient, schedule: Callable[..., None]
) -> None:
    schedule(cron="0 4 * * *", owner="kfp")
    told = {"actor": "test", "reason": "test"}
    assert recurring.follow(NAME) == {DEPLOY: True, TRAIN: False}
    assert enabled(client) == [DEPLOY]
    control.stop(NAME, mode="train_only", **told)
    assert enabled(client) == [TRAIN]
    control.stop(NAME, **told)
    assert enabled(client) == []
    control.resume(NAME, **told)
    control.resume(NAME, **told)
    assert enabled(client) == [DEPLOY]
    assert len(client.recurring()) == 2
    (on,) = [each for each in client.recurring() if each.status == "ENABLED"]
    assert (on.trigger.cron_schedule.cron, on.no_catchup, on.max_concurrency) == ("0 0 4 * * *", True, "1")


def test_what_somebody_switched_by_hand_is_put_right_by_reconcile(
    models: Registry, client: KfpClient, schedule: Callable[..., None]
) -> None:
    schedule(cron="0 4 * * *", owner="kfp")
    recurring.follow(NAME)
    for each in client.recurring():
        client.switch(each.recurring_run_id, on=each.status != "ENABLED")
    assert enabled(client) == [TRAIN]
    control.reconcile(NAME, actor="test")
    assert enabled(client) == [DEPLOY]


def test_another_cron_time_replaces_the_recurring_runs_but_never_ends_a_run_that_goes(
    models: Registry, client: KfpClient, schedule: Callable[..., None]
) -> None:
    schedule(cron="0 4 * * *", owner="kfp")
    recurring.follow(NAME)
    schedule(cron="0 5 * * *", owner="kfp")
    recurring.follow(NAME)
    assert {each.trigger.cron_schedule.cron for each in client.recurring()} == {"0 0 5 * * *"}
    schedule(cron="* * * * *", owner="kfp")
    recurring.follow(NAME)
    going = until(client.unended)
    schedule(cron="0 6 * * *", owner="kfp")
    recurring.follow(NAME)
    old = [each for each in client.recurring() if each.trigger.cron_schedule.cron == "0 * * * * *"]
    assert [(each.status, each.recurring_run_id) for each in old] == [("DISABLED", going[0].recurring)]
    assert going[0].parameters["dataset"] == "newest"
    assert going[0].parameters["run_key"] == going[0].run_id
    client.terminate(going[0].run_id)
    until(lambda: not client.unended())
    recurring.follow(NAME)
    assert {each.trigger.cron_schedule.cron for each in client.recurring()} == {"0 0 6 * * *"}


def test_where_airflow_takes_the_schedule_back_none_is_left_and_a_problem_without_one_gets_none(
    models: Registry, client: KfpClient, schedule: Callable[..., None]
) -> None:
    schedule(cron="0 4 * * *", owner="kfp")
    recurring.follow(NAME)
    other = client.recur(
        compiled(TRAIN), {"problem": "x", "dataset": "y", "run_key": "z"}, name="mine", cron="0 4 * * *", on=True
    )
    schedule(cron="0 4 * * *")
    assert recurring.follow(NAME) == {}
    assert [each.recurring_run_id for each in client.recurring()] == [other]


def until(look: Callable[[], Any], seconds: float = 75) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError("It did not happen in time.")
