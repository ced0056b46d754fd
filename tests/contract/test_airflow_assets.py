"""Changes of champion as events of Airflow's assets, on a real API server of Airflow."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from adin.airflow import assets
from adin.connections import Connection
from adin.models import Registry, events, registry
from adin.models.airflow_assets import AirflowAssets
from adin.models.events import Deliverer
from adin.settings import ROOT
from adin.stack.airflow_api import AirflowApi
from model_facts import files, register, validated
from monitoring_servers import AlertServer, Process, free_port
from processes import at_once, told_and_killed
from server_fixtures import PORT_BASE
from servers import Servers
from waiting import until

pytestmark = pytest.mark.flow(16, 21)

#: Models whose asset a DAG waits for: one of each edition and test.
FOLLOWED = ["changes", "away", "killed", "served"]
FOLLOWERS = """
from airflow.sdk import DAG, Asset

with DAG("follows", schedule=[{assets}]):
    pass
"""


@dataclass
class Airflow:
    """The API server, with the assets of the models above in its database."""

    process: Process
    conn: Connection

    def told(self, model: str) -> list[dict[str, Any]]:
        """What the events of a model's asset say, oldest first."""
        api = AirflowApi(self.conn.url, self.conn.login, self.conn.password)
        query = {"name_pattern": f"model_{model}", "order_by": "timestamp"}
        return [event["extra"] for event in api._call("GET", "/api/v2/assets/events", params=query)["asset_events"]]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    names = [f"{test}_{edition}" for test in FOLLOWED for edition in ("database", "files")]
    declared = [f"Asset(name={made.name!r}, uri={made.uri!r})" for made in map(assets.model, names)]
    (home / "dags" / "follows.py").write_text(FOLLOWERS.format(assets=", ".join(declared)))
    (home / "passwords.json").write_text(json.dumps({"admin": "word"}))
    options = {
        "CORE__DAGS_FOLDER": home / "dags",
        "CORE__PLUGINS_FOLDER": home / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "API__WORKERS": 1,
    }
    environment = os.environ | {f"AIRFLOW__{key}": str(value) for key, value in options.items()}
    environment |= {"AIRFLOW_HOME": str(home)}
    program = str(ROOT / ".venv" / "bin" / "airflow")
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run([program, *command], env=environment, check=True, capture_output=True)
    conn = Connection("airflow", "127.0.0.1", free_port(), "admin", "word")
    serve = [program, "api-server", "--host", conn.host, "--port", str(conn.port), "--apps", "core"]
    process = Process(serve, f"{conn.url}/api/v2/version", home / "server.log", environment)
    process.start()
    yield Airflow(process, conn)
    process.kill()


@pytest.fixture
def models(edition: Connection, servers: Servers) -> Registry:
    return registry(edition, s3=servers.s3)


def followed(edition: Connection, test: str) -> str:
    return f"{test}_{edition.extra['edition']}"


def told_of(model: str, airflow: Airflow) -> AirflowAssets:
    """Airflow, told of one model, as a receiver of the test's own."""
    return AirflowAssets(airflow.conn, name=f"airflow-{model}".replace("_", "-"), models=model)


def test_every_change_of_champion_whoever_made_it_is_one_event_of_the_models_asset_and_nothing_else_is(
    models: Registry, edition: Connection, airflow: Airflow, tmp_path: Path
) -> None:
    model = followed(edition, "changes")
    deliverer = Deliverer(models, [told_of(model, airflow)])
    deliverer.once()
    first, second = (validated(models, model, files(tmp_path), f"run-{n}") for n in range(2))
    models.promote(model, first, against=None, actor="pipeline", reason="the first")
    models.append(model, "served", version=first, actor="pipeline", reason="it answers")
    models.append(model, "promote", version=second, actor="ann", reason="by hand")
    models.append(model, "freeze", actor="ann", reason="holiday")
    models.append(model, "rollback", version=first, mode="stopped", actor="bob", reason="late share jumped")
    models.append(model, "ct_mode", mode="train_only", actor="bob", reason="done")
    models.append(model, "unfreeze", version=second, mode="auto_deploy", actor="ann", reason="false alarm")
    models.append(model, "undone", version=second, actor="ann", reason="it failed under load")
    assert [(each.sent, each.failure) for each in deliverer.once()] == [(5, "")]
    assert [(e["event"], e["former"], e["champion"], e["actor"], e["reason"]) for e in airflow.told(model)] == [
        ("promote", None, first, "pipeline", "the first"),
        ("promote", first, second, "ann", "by hand"),
        ("rollback", second, first, "bob", "late share jumped"),
        ("unfreeze", first, second, "ann", "false alarm"),
        ("undone", second, first, "ann", "it failed under load"),
    ]
    assert [each.sent for each in deliverer.once()] == [0]
    assert len(airflow.told(model)) == 5


def test_what_changes_while_airflow_is_away_is_told_once_when_it_is_back_and_holds_up_nothing(
    models: Registry, edition: Connection, airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("adin.models.events.time.monotonic", lambda: now[0])
    model = followed(edition, "away")
    receiver = told_of(model, airflow)
    deliverer = Deliverer(models, [receiver])
    deliverer.once()
    airflow.process.kill()
    try:
        number = validated(models, model, files(tmp_path), "run-1")
        models.promote(model, number, against=None, actor="pipeline", reason="better")
        assert models.state(model).champion == number
        for _ in range(3):
            (done,) = deliverer.once()
            assert (done.sent, bool(done.failure)) == (0, True)
            now[0] += 1000
        assert events.status(models, receiver).behind == 1
    finally:
        airflow.process.start()
    assert [(each.sent, each.failure) for each in deliverer.once()] == [(1, "")]
    assert [each["champion"] for each in airflow.told(model)] == [number]
    assert events.status(models, receiver).behind == 0


def test_an_event_whose_teller_was_killed_before_it_noted_it_is_not_made_again(
    models: Registry, edition: Connection, servers: Servers, airflow: Airflow, tmp_path: Path
) -> None:
    model = followed(edition, "killed")
    receiver = told_of(model, airflow)
    Deliverer(models, [receiver]).once()
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="pipeline", reason="better")
    at_once(1, told_and_killed, edition, servers.s3, receiver)
    assert [each["champion"] for each in airflow.told(model)] == [number]
    assert events.status(models, receiver).behind == 1
    Deliverer(models, [receiver]).once()
    assert events.status(models, receiver).behind == 0
    assert [each["champion"] for each in airflow.told(model)] == [number]


def test_a_model_no_dag_follows_and_a_wrong_password_hold_up_no_other(
    models: Registry, model: str, airflow: Airflow, tmp_path: Path
) -> None:
    receiver = told_of(model, airflow)
    wrong = AirflowAssets(
        Connection("airflow", airflow.conn.host, airflow.conn.port, "admin", "wrong"), f"{receiver.name}-wrong", model
    )
    deliverer = Deliverer(models, [wrong, receiver])
    deliverer.once()
    number = validated(models, model, files(tmp_path), "run-1")
    models.promote(model, number, against=None, actor="pipeline", reason="better")
    refused, told = deliverer.once()
    assert "401" in refused.failure
    assert "wrong" not in refused.failure
    assert told.failure == ""
    assert (events.status(models, wrong).behind, events.status(models, receiver).behind) == (1, 0)
    assert airflow.told(model) == []


def test_the_alert_service_tells_airflow_where_the_connection_airflow_is_declared(
    models: Registry,
    edition: Connection,
    servers: Servers,
    airflow: Airflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADIN_CONN_AIRFLOW", airflow.conn.uri)
    monkeypatch.setenv("ADIN_WEBHOOK_PAUSE", "0.2")
    monkeypatch.setenv("ADIN_MODEL_WEBHOOKS", "[]")
    model = followed(edition, "served")
    register(models, model, files(tmp_path), "run-0")
    (receiver,) = events.receivers()
    events.status(models, receiver)  # what is told begins here
    service = AlertServer(
        tmp_path / "home", PORT_BASE + 50, edition, servers.s3, Connection("alertmanager", "127.0.0.1", 1)
    )
    service.start()
    try:
        number = validated(models, model, files(tmp_path), "run-1")
        models.promote(model, number, against=None, actor="pipeline", reason="better")
        until(lambda: airflow.told(model))
    finally:
        service.kill()
    assert [each["champion"] for each in airflow.told(model)] == [number]
