"""The compiled pipelines stand in the repository; they must be what their source says."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ml, pytest.mark.flow(22)]


def test_the_committed_pipelines_equal_a_fresh_compile() -> None:
    command = [sys.executable, "-m", "adin.pipelines.compile", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
