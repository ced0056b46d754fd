"""The example of each operator, as `airflow dags test` runs it, on the stack after the main line; deployment."""

from __future__ import annotations

import json
import subprocess

import pytest
from adin.models import registry
from adin.serving.client import ServingClient
from adin.settings import ROOT
from adin.stack.layout import program
from adin.stack.services import airflow_environment

PROBLEM = "flights_delay"
#: Those that need a Kubernetes, or a run that has failed.
ELSEWHERE = {"example_inference_service", "example_kfp_retry"}

_TEST = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
found = {}
for dag_id, dag in sorted(DagBag(dag_folder=sys.argv[1]).dags.items()):
    if dag_id in json.loads(sys.argv[2]):
        run = dag.test(run_conf=json.loads(sys.argv[3]).get(dag_id, {}))
        found[dag_id] = str(run.state.value)
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes(line):
    """How the examples ended, each tested in one process: starting Airflow takes longer than most of them."""
    text = (ROOT / "dags" / "examples.py").read_text()
    names = {f"example_{part.partition(chr(34))[0]}" for part in text.split('example(\n    "')[1:]}
    version = str(registry().state(PROBLEM).champion)
    conf = {"example_amversion_rollback": {"target": version}}
    done = subprocess.run(
        [
            program("python"),
            "-W",
            "ignore",
            "-c",
            _TEST,
            str(ROOT / "dags" / "examples.py"),
            json.dumps(sorted(names - ELSEWHERE)),
            json.dumps(conf),
        ],
        env=airflow_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    told = [each for each in done.stdout.splitlines() if each.startswith("FOUND ")]
    assert told, done.stdout[-3000:] + done.stderr[-3000:]
    return names - ELSEWHERE, json.loads(told[0].removeprefix("FOUND "))


@pytest.mark.flow(22)
def test_the_example_of_every_operator_runs_to_its_end(outcomes):
    wanted, found = outcomes
    assert found == dict.fromkeys(wanted, "success")


@pytest.mark.flow(14)
@pytest.mark.case("KserveDeploy", "fresh")
def test_deploying_puts_the_champion_under_load(outcomes):
    assert ServingClient().status(PROBLEM)["version"] == registry().state(PROBLEM).champion


@pytest.mark.flow(14)
@pytest.mark.case("KserveDeploy", "twice")
def test_deploying_what_is_under_load_already_writes_nothing_to_the_log(line, run_airflow):
    before = registry().log(PROBLEM)
    run_airflow("dags", "test", "example_kserve_deploy")
    assert registry().log(PROBLEM) == before
