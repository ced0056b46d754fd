"""The compiled pipelines stand in the repository; they must be what their source says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from adin import pipelines

pytestmark = [pytest.mark.ml, pytest.mark.flow(22)]


def test_the_committed_pipelines_equal_a_fresh_compile() -> None:
    command = [sys.executable, "-m", "adin.pipelines.compile", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_step_requests_what_it_may_use_and_training_takes_it_from_the_problem() -> None:
    for path in Path(pipelines.__file__).parent.glob("*.yaml"):
        executors = yaml.safe_load(path.read_text())["deploymentSpec"]["executors"]
        for name, executor in executors.items():
            resources = executor["container"]["resources"]
            for kind in ("Cpu", "Memory"):
                asked = resources[f"resource{kind}Request"]
                assert asked == resources[f"resource{kind}Limit"], (path.name, name)
                if name == "exec-train":
                    assert f"train_{kind.lower()}" in asked
