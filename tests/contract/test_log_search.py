"""Logs by the shipped configuration of rsyslog into a real OpenSearch: one search finds every line of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from log_search import Search, programs, shipper
from waiting import until

pytestmark = pytest.mark.flow(26)

#: What a process of the stack does: its lines as JSON on stdout, by the settings all of them share.
_PROCESS = """
import logging, sys
from adin import logs
service, run = sys.argv[1:]
logs.set_up(service)
log = logging.getLogger(f"adin.{service}")
for n in range(3):
    log.info("step %d of %s", n, service, extra={"run": run, "problem": "bread", "version": "7"})
log.warning("promoted", extra={"happened": "promotion", "run": run, "model": "bread"})
log.info("something else")
"""


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    found = Search(programs(), tmp_path)
    yield found
    found.kill()


def write(logs: Path, run: str, *services: str) -> None:
    """Let processes write what those of a training run write."""
    for service in services:
        with (logs / f"{service}.log").open("ab") as file:
            subprocess.run([sys.executable, "-c", _PROCESS, service, run], stdout=file, check=True, timeout=60)


def task_and_steps(home: Path, kfp_run: str) -> str:
    """Write what tasks of Airflow, a step of Kubeflow and the servers they call write; return Airflow's run."""
    run = f"manual__{uuid4().hex}+00:00"
    dag_run = home / "airflow" / "logs" / "dag_id=train__bread" / f"run_id={run}"
    for task, message, *more in (
        ("train", "first line"),
        ("train", f"job {kfp_run} started"),
        ("each", "of a mapped task", "map_index=0"),
    ):
        folder = dag_run.joinpath(f"task_id={task}", *more)
        folder.mkdir(parents=True, exist_ok=True)
        line = {"timestamp": "2026-11-25T15:30:01.880972Z", "level": "info", "event": message, "logger": "task"}
        with (folder / "attempt=1.log").open("a") as file:
            file.write(json.dumps(line) + "\n")
    steps = home / "kfp" / "runs" / kfp_run / "attempt-1" / "log"
    steps.mkdir(parents=True)
    (steps / "train.log").write_text("100 trees\n")
    for service in ("kfp", "kserve"):
        line = {"time": "2026-11-25T15:30:02Z", "service": service, "message": "done", "run": kfp_run}
        with (home / "logs" / f"{service}.log").open("a") as file:
            file.write(json.dumps(line | {"started_by": f"Airflow run {run}"}) + "\n")
    return run


def test_one_search_finds_every_line_of_a_run_across_services_also_those_written_while_opensearch_was_away(
    search: Search, tmp_path: Path
) -> None:
    home, state = tmp_path / "stack", tmp_path / "state"
    logs = home / "logs"
    logs.mkdir(parents=True)
    state.mkdir()
    search.start()
    run, other, late = (uuid4().hex for _ in range(3))
    with shipper(programs(), home, state, search.port):
        write(logs, run, "kfp", "kserve", "alerts")
        write(logs, other, "kfp")
        (logs / "redis.log").write_text("1:M 25 Nov 2026 12:00:00.000 * Ready to accept connections\n")
        until(lambda: len(search.find(f"run:{run}")) == 12, seconds=60)
        found = search.find(f"run:{run}")
        assert {line["service"] for line in found} == {"kfp", "kserve", "alerts"}
        assert all({"time", "level", "service", "message", "run"} <= set(line) for line in found)
        assert [line["time"] for line in found] == sorted(line["time"] for line in found)
        assert {line["service"] for line in search.find(f"event:promotion AND run:{run}")} == {
            "kfp",
            "kserve",
            "alerts",
        }
        assert {line["run"] for line in search.find("problem:bread")} == {run, other}
        until(lambda: search.find('message:"Ready to accept connections" AND service:redis'), seconds=60)
        airflow = task_and_steps(home, run)
        until(lambda: len(search.find(f'"{airflow}"')) == 5, seconds=60)
        joined = search.find(f'"{airflow}"')
        assert {line["service"] for line in joined} == {"airflow-task", "kfp", "kserve"}
        assert {"first line", "of a mapped task"} <= {line["message"] for line in joined}
        assert {line["task"] for line in joined if line["service"] == "airflow-task"} == {"train", "each"}
        assert [(line["task"], line["message"].strip()) for line in search.find(f"run:{run} AND service:kfp-step")] == [
            ("train", "100 trees")
        ]
        search.kill()
        write(logs, late, "kfp", "kserve")
        search.start()
        until(lambda: len(search.find(f"run:{late}")) == 8, seconds=120)
        assert len(search.find(f"run:{run}")) == 12 + 3, "those of the tasks' run are three more"


def test_a_line_is_json_with_the_fields_that_are_searched_by() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, "kfp", "r1"], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("run") for line in lines] == ["r1"] * 4 + [None]
    assert lines[3]["event"] == "promotion"
