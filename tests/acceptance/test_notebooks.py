"""The shipped notebooks, run in the ML environment on the stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from adin import datasets
from adin.models import registry
from adin.settings import ROOT

PROBLEM = "flights_delay"


def execute(name: str, folder: Path, **parameters: object) -> str:
    """Run a notebook in a kernel of the ML environment and return all it put out."""
    python, made = ROOT / ".venv-ml" / "bin" / "python", folder / f"{name}.ipynb"
    command = [python, "-m", "papermill", ROOT / "notebooks" / f"{name}.ipynb", made, "-k", "python3"]
    for key, value in parameters.items():
        command += ["-p", key, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(made.read_text())["cells"]
    return json.dumps([cell.get("outputs") for cell in cells])


@pytest.mark.flow(13, 25)
def test_a_dataset_version_is_explored_from_lakefs_and_clickhouse(line, tmp_path):
    told = execute("1_explore", tmp_path, problem=PROBLEM)
    assert datasets.newest(PROBLEM).commit[:12] in told
    assert "validate" in told and "flights.origin_2h" in told


@pytest.mark.flow(25)
def test_a_model_is_trained_compared_and_registered_as_an_experiment(line, tmp_path):
    before = registry().champion(PROBLEM)
    execute("3_train", tmp_path, problem=PROBLEM)
    models = registry()
    tried = models.version(*models.resolve(f"{PROBLEM}:experimental"))
    assert tried.manifest.experimental and tried.manifest.dataset == datasets.newest(PROBLEM).commit
    assert models.state(PROBLEM).versions[tried.number] == "registered"
    assert models.champion(PROBLEM) == before


@pytest.mark.flow(21, 25)
def test_a_rollback_is_planned_and_changes_nothing_before_it_is_said(line, tmp_path):
    before = registry().state(PROBLEM)
    told = execute("4_roll_back", tmp_path, problem=PROBLEM)
    assert "obstacles" in told and "prediction" in told
    assert registry().state(PROBLEM) == before


@pytest.mark.flow(25)
def test_a_feature_is_tried_with_the_problems_own_code(line, tmp_path):
    assert "log_loss" in execute("2_feature", tmp_path, problem=PROBLEM)
