"""Metrics of real servers in a real Prometheus, and what the dashboards ask of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from adin.settings import ROOT
from adin.stack.layout import PORTS
from monitoring_servers import get, programs
from server_fixtures import PORT_BASE
from waiting import until

pytestmark = pytest.mark.flow(26)

DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
SERVICES = ["postgres", "s3", "redis", "lakefs", "clickhouse", "kfp", "kserve", "push", "alerts"]
MONITORING = ["alertmanager", "prometheus", "statsd-exporter", "redis-exporter", "postgres-exporter"]
WORDS = {"sum", "by", "rate", "increase", "time", "histogram_quantile", "or", "le", "vector"}


@dataclass
class Stack:
    """Small servers of this module's own, watched by a Prometheus."""

    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return Path(self.environment["ADIN_HOME"])

    def control(self, call: str) -> None:
        code = f"from adin.stack import control, layout; {call}"
        command = [str(ROOT / ".venv/bin/python"), "-c", code]
        subprocess.run(command, env=self.environment, check=True, timeout=300)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        return list(
            get(f"http://127.0.0.1:{PORT_BASE + 100 + PORTS['prometheus']}/api/v1/query?{query}")["data"]["result"]
        )

    def names(self) -> set[str]:
        found = get(f"http://127.0.0.1:{PORT_BASE + 100 + PORTS['prometheus']}/api/v1/targets/metadata")
        return {each["metric"] for each in found["data"]}


@pytest.fixture(scope="module")
def watched() -> Iterator[Stack]:
    programs()
    home = Path(tempfile.mkdtemp(prefix="adin-watched-"))
    home.chmod(0o755)  # PostgreSQL runs as another user when we are root
    unset = {name: value for name, value in os.environ.items() if not name.startswith("ADIN_CONN_")}
    hasty = {"PAUSE": "0.5", "RESEND": "1", "HOLD": "3", "DOWN_SECONDS": "1"}
    hasty = {f"ADIN_ALERT_{name}": value for name, value in hasty.items()}
    stack = Stack(unset | hasty | {"ADIN_HOME": str(home), "ADIN_PORT_BASE": str(PORT_BASE + 100)})
    try:
        stack.control(f"layout.monitored(True); control.up({SERVICES + MONITORING})")
        airflow(stack)
        yield stack
    finally:
        stack.control("control.down()")
        shutil.rmtree(home, ignore_errors=True)


def templates() -> dict[str, str]:
    """Return the metrics Airflow says it sends, with their types."""
    import airflow

    file = Path(airflow.__file__).parent / "_shared" / "observability" / "metrics" / "metrics_template.yaml"
    return {each["name"]: each["type"] for each in yaml.safe_load(file.read_text())["metrics"]}


def airflow(stack: Stack) -> None:
    """Send what Airflow sends, by Airflow's own client under the settings of the stack."""
    code = """
import sys, json
from airflow.observability.metrics.statsd_logger import get_statsd_logger
client = get_statsd_logger()
tags = {"dag_id": "d", "task_id": "t", "state": "success", "pool_name": "p", "run_id": "r"}
for name, kind in json.loads(sys.argv[1]).items():
    if "{" not in name:
        {"counter": client.incr, "gauge": client.gauge, "timer": client.timing}[kind](
            name, *([] if kind == "counter" else [1500]), tags=tags)
"""
    settings_ = "from adin.stack.services import airflow_environment as e; import json; print(json.dumps(e()))"
    python = str(ROOT / ".venv/bin/python")
    made = subprocess.run([python, "-c", settings_], env=stack.environment, capture_output=True, text=True, check=True)
    environment = stack.environment | json.loads(made.stdout.splitlines()[-1])
    subprocess.run([python, "-W", "ignore", "-c", code, json.dumps(templates())], env=environment, check=True)


def queries() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{file.stem}: {panel['title']}")
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


def asked_for(expression: str) -> set[str]:
    """Return the names of the metrics in a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|(?<= by) \([^)]*\)", "", expression)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if name not in WORDS}


def recorded() -> set[str]:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "recording.yml").read_text())
    return {rule["record"] for group in rules["groups"] for rule in group["rules"]}


def test_every_part_of_the_stack_is_scraped(watched: Stack) -> None:
    jobs = {
        "alerts",
        "kserve",
        "push",
        "kfp",
        "clickhouse",
        "s3",
        "lakefs",
        "redis",
        "postgres",
        "airflow",
        "prometheus",
    }
    until(lambda: {each["metric"]["job"] for each in watched.ask("up == 1")} == jobs | {"alertmanager"})
    until(lambda: watched.ask('adin_service_up{service="redis"} == 1'))


@pytest.mark.flow(15)
def test_a_service_that_hangs_is_told_and_taken_back_when_it_answers_again(watched: Stack) -> None:
    def down() -> list[str]:
        alerts = get(
            f"http://127.0.0.1:{PORT_BASE + 100 + PORTS['alertmanager']}/api/v2/alerts?filter=alertname=AdinServiceDown"
        )
        return [each["labels"]["service"] for each in alerts]

    assert "redis" not in down()
    (redis,) = [each for each in psutil.process_iter() if str(watched.home / "redis") in " ".join(_command(each))]
    redis.suspend()
    try:
        until(lambda: "redis" in down(), seconds=120)
    finally:
        redis.resume()
    until(lambda: "redis" not in down(), seconds=120)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_airflow_tells_dag_task_and_state_as_labels_and_times_in_seconds(watched: Stack) -> None:
    until(lambda: watched.ask('airflow_ti_finish{dag_id="d", task_id="t", state="success"} == 1'))
    until(lambda: watched.ask('airflow_task_duration_sum{dag_id="d"} == 1.5'))
    assert "run_id" not in watched.ask("airflow_ti_finish")[0]["metric"]


@pytest.mark.parametrize("expression", queries())
def test_a_query_of_a_dashboard_is_understood_and_asks_for_metrics_there_are(watched: Stack, expression: str) -> None:
    until(lambda: {"adin_alerts", "redis_up", "pg_up", "airflow_ti_finish"} <= watched.names())
    watched.ask(expression)  # raises where Prometheus does not understand it
    names, found = asked_for(expression), watched.names() | recorded() | {"up"}
    assert names
    for name in names:
        plain = re.sub(r"_(bucket|sum|count|total)$", "", name)
        assert found & {name, plain, f"{plain}_total"}, name
