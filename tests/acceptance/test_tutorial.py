"""docs/tutorial.md, followed word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from adin.models import registry
from adin.serving.client import ServingClient
from adin.settings import ROOT

FOLDERS = (ROOT / "feature_repo" / "bikes", ROOT / "include" / "problems" / "bikes")
#: A file to write, named just before it, or commands to run.
STEP = re.compile(r"^(?:`(?P<file>\S+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def own_folders() -> Iterator[None]:
    for folder in FOLDERS:
        assert not folder.exists()
    yield
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)


def follow(text: str) -> list[str]:
    """Do what a tutorial says and return what its commands printed."""
    printed = []
    for step in STEP.finditer(text):
        if step["file"]:
            (ROOT / step["file"]).write_text(step["text"])
        else:
            assert step["kind"] == "sh", f"a block of {step['kind']} that names no file"
            command = ["bash", "-euo", "pipefail", "-c", step["text"]]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            printed.append(done.stdout)
    return printed


def untracked() -> set[str]:
    done = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


@pytest.mark.flow(22, 23, 25)
def test_the_tutorial_leads_from_a_csv_file_to_a_served_model_and_touches_its_two_folders_only(own_folders):
    before = untracked()
    printed = follow((ROOT / "docs" / "tutorial.md").read_text())
    assert untracked() - before == {"?? feature_repo/bikes/", "?? include/problems/bikes/"}
    champion = registry().champion("bikes")
    assert champion is not None
    assert champion.manifest.metrics["test"]["all"]["mae"] < 5
    answer = ServingClient().predict("bikes", [{"station": "harbour", "asked_at": "2024-02-29T17:00:00Z"}])
    assert answer["model_version"] == champion.number
    assert 10 < answer["predictions"][0] < 60, "about thirty bikes are out at the harbour on a Thursday evening"
    assert champion.manifest.dataset[:12] in printed[-1]
