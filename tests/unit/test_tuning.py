"""Tuning: one spec, the same search with Optuna here and as an Experiment of Katib; what either lacks is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from adin import problem_check
from adin.errors import ConfigError, RunFailedError
from adin.problem import names, problem
from adin.settings import settings
from adin.tuning import trial
from adin.tuning.katib import experiment
from test_problem import GOOD

pytestmark = pytest.mark.flow(23)

RANGE = {"name": "x", "type": "double", "min": -4, "max": 4}
SPEC = {
    "objective": {"type": "minimize", "metric": "log_loss"},
    "algorithm": "tpe",
    "parameters": [RANGE],
    "maxTrialCount": 6,
    "deadline": "20min",
}


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """Return a function that makes a problem with a search."""
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()

    def make(**changes):
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "problem.yaml").write_text(yaml.safe_dump(GOOD | {"tune": SPEC | changes}))
        return problem("made")

    yield make
    monkeypatch.undo()
    settings.cache_clear()


WRONG = {
    "a search of Katib alone": ({"algorithm": "bayesianoptimization"}, "no search which Katib and Optuna both have"),
    "a search of Optuna alone": ({"algorithm": "gp"}, "no search which Katib and Optuna both have"),
    "a distribution of Katib alone": ({"parameters": [RANGE | {"distribution": "normal"}]}, "uniform"),
    "a step with logUniform": (
        {"parameters": [RANGE | {"min": 1, "step": 1, "distribution": "logUniform"}]},
        "no step with logUniform",
    ),
    "logUniform from below 0": ({"parameters": [RANGE | {"distribution": "logUniform"}]}, "min above 0"),
    "an empty range": ({"parameters": [RANGE | {"max": -4}]}, "min the smaller"),
    "a list and a range": ({"parameters": [RANGE | {"list": [1, 2]}]}, "not a list"),
    "a category that is a number": ({"parameters": [{"name": "x", "type": "categorical", "list": [1]}]}, "texts"),
    "half an integer": ({"parameters": [{"name": "x", "type": "int", "min": 0.5, "max": 2}]}, "whole numbers"),
    "a name twice": ({"parameters": [RANGE, RANGE]}, "twice"),
    "a grid without steps": ({"algorithm": "grid"}, "needs a step for x"),
    "an early stop, which one engine has": ({"earlyStopping": {"algorithmName": "medianstop"}}, "no such key"),
    "no deadline": ({"deadline": "0s"}, "at least 1s"),
    "no parameters": ({"parameters": []}, "at least 1 item"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=list(WRONG))
def test_what_has_no_counterpart_or_contradicts_itself_is_refused_with_line_and_remedy(tuned, changes, said):
    with pytest.raises(ConfigError, match="line"):
        tuned(**changes)
    found = [each for each in problem_check.check("made") if each.what.startswith("tune")]
    assert any(said in each.what for each in found)
    assert all(each.line > 1 and each.remedy for each in found)


def test_an_objective_of_the_wrong_direction_or_of_another_task_is_a_mistake(tuned):
    tuned(objective={"type": "maximize", "metric": "log_loss"})
    told = {each.what: each.remedy for each in problem_check.check("made")}
    assert told["tune.objective.type: log_loss is the better the lower."] == "Write minimize."
    tuned(objective={"type": "minimize", "metric": "mae"})
    assert any("'mae' is not measured for a binary problem" in each.what for each in problem_check.check("made"))


def test_all_trials_in_a_row_keep_the_deadline(tuned):
    tune = tuned(maxTrialCount=5, parallelTrialCount=2, deadline="90s").tune
    assert tune.trial_deadline.total_seconds() == 30


@pytest.mark.parametrize("name", names())
def test_a_shipped_problem_gives_an_experiment_that_runs_the_same_trial(name):
    spec = problem(name)
    made = experiment(spec, "7a78d0e6aa")
    body, template = made["spec"], made["spec"]["trialTemplate"]
    assert made["apiVersion"] == "kubeflow.org/v1beta1"
    assert body["objective"]["objectiveMetricName"] == spec.tune.objective.metric
    assert {each["name"]: each["parameterType"] for each in body["parameters"]} == {
        each.name: each.type for each in spec.tune.parameters
    }
    job = template["trialSpec"]["spec"]
    assert job["activeDeadlineSeconds"] * body["maxTrialCount"] >= spec.tune.deadline.total_seconds()
    command = job["template"]["spec"]["containers"][0]["command"]
    names_ = {each["name"] for each in template["trialParameters"]}
    used = {used for word in command for used in re.findall(r"\$\{trialParameters\.(\w+)\}", word)}
    assert used == names_ == {each.name for each in spec.tune.parameters}
    assert command[:4] == ["python", "-m", "adin.tuning.trial", name]


def test_an_experiment_needs_a_dataset_by_commit_and_a_problem_that_tunes(tuned, monkeypatch):
    with pytest.raises(ConfigError, match="by its commit"):
        experiment(tuned(), "newest")
    with pytest.raises(ConfigError, match="has no tune"):
        experiment(tuned().model_copy(update={"tune": None}), "abc")


def test_a_trial_reads_each_parameter_as_its_type(tuned):
    parameters = [
        RANGE,
        {"name": "n", "type": "int", "min": 1, "max": 9},
        {"name": "kind", "type": "categorical", "list": ["7", "b"]},
        {"name": "depth", "type": "discrete", "list": [2, 4]},
    ]
    tune = tuned(parameters=parameters).tune
    found = trial.parsed(tune, ["x=0.5", "n=3", "kind=7", "depth=4"])
    assert found == {"x": 0.5, "n": 3, "kind": "7", "depth": 4}
    assert [type(value) for value in found.values()] == [float, int, str, int]
    with pytest.raises(ConfigError, match="Give each"):
        trial.parsed(tune, ["x=0.5"])


# --- the search itself; a trial is any program that takes name=value and prints metric=value


def program(body: str) -> tuple[str, ...]:
    read = "import sys; given = dict(a.split('=') for a in sys.argv[1:] if '=' in a); x = float(given['x'])\n"
    return (sys.executable, "-I", "-S", "-c", read + body)


@pytest.mark.ml
@pytest.mark.parametrize(
    "made",
    [
        pytest.param({"algorithm": "tpe", "maxTrialCount": 30}, id="tpe"),
        pytest.param({"algorithm": "grid", "parameters": [RANGE | {"step": 0.5}], "maxTrialCount": 17}, id="grid"),
        pytest.param({"algorithm": "random", "maxTrialCount": 40, "parallelTrialCount": 4}, id="random"),
    ],
)
def test_the_known_optimum_of_a_made_problem_is_found(tuned, made):
    from adin.tuning.search import search

    found = search(tuned(**made), Path(), program=program("print(f'log_loss={(x - 1.5) ** 2}')"))
    assert found["value"] < 0.15
    assert found["best"]["x"] == pytest.approx(1.5, abs=0.4)
    assert len(found["trials"]) == made["maxTrialCount"]
    assert found["value"] == min(each["value"] for each in found["trials"])


@pytest.mark.ml
def test_a_search_ends_at_its_goal(tuned):
    from adin.tuning.search import search

    goal = {"type": "maximize", "metric": "auc", "goal": 0}
    found = search(tuned(objective=goal), Path(), program=program("print('auc=0.0')"))
    assert (len(found["trials"]), found["reached_goal"]) == (1, True)


@pytest.mark.ml
def test_failed_trials_are_counted_and_end_the_search_when_there_are_too_many(tuned):
    from adin.tuning.search import search

    some = tuned(algorithm="grid", parameters=[RANGE | {"step": 2}], maxTrialCount=5, maxFailedTrialCount=2)
    found = search(some, Path(), program=program("assert x < 1, 'too large'; print(f'log_loss={-x}')"))
    assert (found["failed"], len(found["trials"]), found["best"]) == (2, 5, {"x": 0})
    assert sum("too large" in each.get("error", "") for each in found["trials"]) == 2
    with pytest.raises(RunFailedError, match="no log_loss=number"):
        search(tuned(maxFailedTrialCount=1), Path(), program=program("print('nothing')"))


@pytest.mark.ml
def test_a_trial_that_hangs_is_ended_at_its_part_of_the_deadline_and_counted(tuned):
    from adin.tuning.search import search

    hangs = program("import time; time.sleep(600)")
    with pytest.raises(RunFailedError, match="not done after its 1 s"):
        search(tuned(deadline="3s", maxTrialCount=3, maxFailedTrialCount=0), Path(), program=hangs)


@pytest.mark.ml
def test_the_same_seed_gives_the_same_search(tuned):
    from adin.tuning.search import search

    square = program("print(f'log_loss={x * x}')")
    one, two = (search(tuned(maxTrialCount=4), Path(), program=square)["trials"] for _ in range(2))
    assert one == two


@pytest.mark.ml
@pytest.mark.parametrize("name", names())
def test_katibs_own_models_know_every_key_of_the_experiment(name):
    from kubeflow_katib_api import models as katib

    made = experiment(problem(name), "7a78d0e6aa")
    read = katib.V1beta1Experiment.from_dict(made)
    assert read is not None
    kept = read.to_dict()
    assert kept["spec"] == made["spec"]
    assert (kept["kind"], kept["metadata"]["name"]) == ("Experiment", made["metadata"]["name"])
