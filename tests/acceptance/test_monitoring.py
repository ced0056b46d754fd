"""After the whole line has run: every query of the dashboards has an answer, the status page shows how things are."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from adin.commands.features import app as features
from adin.problem import problem
from adin.serving.client import ServingClient
from adin.settings import ROOT
from adin.stack import control, layout
from adin.stack.airflow_api import AirflowApi
from monitoring_servers import get, programs
from typer.testing import CliRunner
from waiting import until

MONITORING = ["alertmanager", "prometheus", "statsd-exporter", "redis-exporter", "postgres-exporter"]
QUERIES = [
    pytest.param(target["expr"], id=f"{file.stem}: {panel['title']}")
    for file in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    for panel in json.loads(file.read_text())["panels"]
    for target in panel["targets"]
]


@pytest.fixture(scope="module")
def watched(line: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Watch the running stack; push a row, predict one, and let a DAG run under the eyes of Prometheus."""
    programs()
    layout.monitored(True)
    control.up(MONITORING)
    control.restart(["airflow-scheduler", "airflow-dags", "alerts"])  # with StatsD and Alertmanager from now on
    rows = tmp_path_factory.mktemp("push") / "rows.json"
    rows.write_text(json.dumps([{"tailnum": f"N{uuid4().hex[:8]}"}]))  # a row that is refused is counted too
    refused = CliRunner().invoke(features, ["push", "tail_last", str(rows), "--json"])
    assert json.loads(refused.stdout)["refused"]
    ServingClient().predict("flights_delay", [problem("flights_delay").example])  # a restarted server has counted none
    api, run = AirflowApi(*control.airflow_login()), f"watched-{uuid4().hex[:8]}"
    api.start("smoke_stack", run, {})
    api.wait("smoke_stack", run, timeout=300)
    yield
    layout.monitored(False)


def ask(expression: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": expression})
    return list(get(f"http://127.0.0.1:{layout.port('prometheus')}/api/v1/query?{query}")["data"]["result"])


@pytest.mark.flow(26)
@pytest.mark.parametrize("expression", QUERIES)
def test_a_query_of_a_dashboard_has_an_answer_from_the_running_stack(watched: None, expression: str) -> None:
    until(lambda: ask(expression), seconds=300)


@pytest.mark.flow(26)
def test_the_status_page_shows_each_service_and_asks_who_is_there(line: Any) -> None:
    url, user, password = control.airflow_login("viewer")
    assert httpx.get(f"{url}/adin/status").status_code == 401
    signed = {"Authorization": AirflowApi(url, user, password).authorization}
    page = httpx.get(f"{url}/adin/status", headers=signed, timeout=60)
    assert page.status_code == 200
    for name in ("postgres", "kserve", "airflow-scheduler", "disk left", "Freshness"):
        assert name in page.text
