"""Problem 2 through the same scheduler, beside the first: a folder of features and a folder of the problem."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from adin import datasets
from adin.datasets.clickhouse import clickhouse
from adin.models import ModelVersion, registry
from adin.problem import problem
from adin.serving.client import ServingClient
from adin.settings import ROOT
from adin.stack import demo_data
from adin.stack.airflow_api import AirflowApi
from user_pipelines import Job, gitlab

PROBLEM = "parking_occupancy"


@pytest.fixture(scope="module")
def champion(airflow: AirflowApi, line: object) -> ModelVersion:
    """The champion after raw data, features and the training they set off."""
    window = {"window_start": "2016-10-04T00:00:00Z", "window_end": "2016-12-20T00:00:00Z"}
    demo_data.load("parking", print)
    for dag, conf in (("apply_features", {"domain": "parking"}), ("features__parking", window)):
        airflow.start(dag, "acceptance-parking", conf)
        airflow.wait(dag, "acceptance-parking", timeout=1200, progress=print)
    training = airflow.newest(f"train__{PROBLEM}")
    airflow.wait(f"train__{PROBLEM}", training, timeout=1200, progress=print)
    found = registry().champion(PROBLEM)
    assert found is not None
    return found


@pytest.mark.flow(1, 6, 23)
def test_the_second_problem_keeps_its_promise_on_the_test_weeks(champion):
    rows = datasets.frame(PROBLEM, champion.manifest.dataset, "test").to_pandas()
    persistence = float(np.abs(rows["recent__rate"] - rows["rate_in_60min"]).mean())
    error = champion.manifest.metrics["test"]["all"]["mae"]
    assert error <= 0.028
    assert error < 0.45 * persistence


@pytest.mark.flow(12, 13, 14, 23)
def test_its_rows_stand_in_clickhouse_and_its_model_answers_beside_the_first_problems(champion):
    commit = champion.manifest.dataset
    with clickhouse() as client:
        found = client.query(f"SELECT split, count() FROM datasets.{PROBLEM} WHERE _commit = '{commit}' GROUP BY split")
    assert dict(found.result_rows) == datasets.version(PROBLEM, commit).rows
    answer = ServingClient().predict(PROBLEM, [problem(PROBLEM).example])
    assert answer["model_version"] == champion.number
    assert 0 <= answer["predictions"][0] <= 1.2
    assert (
        ServingClient().predict("flights_delay", [problem("flights_delay").example])["registry"] != answer["registry"]
    )


@pytest.mark.flow(10, 20, 22)
def test_a_run_by_hand_that_finds_nothing_new_trains_nothing_and_says_why(champion):
    window = ["--start", "2016-10-04", "--end", "2016-12-20"]
    command = [str(ROOT / ".venv" / "bin" / "adin"), "ct", "run", PROBLEM, *window, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)
    assert found["trained"] is False
    assert champion.manifest.dataset[:12] in found["reason"]
    assert registry().champion(PROBLEM) == champion


def ci(job: Job) -> None:
    """Do what a CI job does, as its runner would."""
    for words in job.words:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, f"{job.name}: {' '.join(words)}\n{done.stdout}{done.stderr}"


@pytest.mark.flow(10, 16, 18, 25)
def test_the_ci_pipelines_for_users_train_an_experiment_and_leave_production_alone(champion):
    models = registry()
    before, datasets_before = models.state(PROBLEM), [found.commit for found in datasets.versions(PROBLEM)]
    ran = []
    # tune takes its own time; deploy is what the test above does by hand; make's targets are the CI itself
    for job in gitlab("training"):
        other = job.variables.get("PROBLEM", PROBLEM) != PROBLEM
        if not other and job.name not in ("tune", "deploy") and job.words[0][0] == ".venv/bin/adin":
            ci(job)
            ran.append(job.name)
    assert ran == ["problem", "features", "dataset", "train", "compare", "forget-data"]
    tried = models.version(*models.resolve(f"{PROBLEM}:experimental"))
    state = models.state(PROBLEM)
    assert tried.manifest.experimental and state.versions[tried.number] == "registered"
    assert (state.champion, state.mode) == (before.champion, before.mode)
    assert [found.commit for found in datasets.versions(PROBLEM)] == datasets_before


@pytest.mark.flow(9, 12, 25)
def test_the_ci_pipelines_for_users_bring_features_online_and_the_champion_answers(champion):
    for job in gitlab("inference"):
        if job.variables.get("PROBLEM") == PROBLEM and job.name != "roll-back":
            ci(job)
    assert ServingClient().predict(PROBLEM, [problem(PROBLEM).example])["model_version"] == champion.number
