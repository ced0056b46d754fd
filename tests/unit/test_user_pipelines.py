"""The CI pipelines for users: complete, thin, and made of commands that there are."""

from __future__ import annotations

import re
import subprocess

import pytest
from adin import cli
from adin.problem import names
from adin.settings import ROOT
from typer.main import get_command
from user_pipelines import Job, gitlab, jenkins

pytestmark = pytest.mark.flow(25)

FILES = ("training", "inference")
MAKE = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def adin():
    cli._register()
    return get_command(cli.app)


def jobs() -> list[Job]:
    return [job for name in FILES for job in gitlab(name)]


def understood(command, words: list[str]) -> None:
    """Let the command line read words as it would before it runs them; what it does not know is an error."""
    context = command.make_context("adin", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("file", FILES)
def test_both_problems_go_through_every_stage(file):
    for problem in names():
        mine = [job for job in gitlab(file) if job.variables.get("PROBLEM", problem) == problem]
        assert {job.stage for job in mine} == {job.stage for job in gitlab(file)}


def test_each_job_is_a_thin_call_that_make_or_adin_understands(adin):
    for job in jobs():
        assert len(job.commands) <= 3, job.name
        for words in job.words:
            program, *rest = words
            if program == "make":
                assert set(rest) <= MAKE, job.name
            elif program == ".venv-ml/bin/python":
                assert rest == ["-m", "adin.pipelines.compile", "--check"], job.name
            else:
                assert program == ".venv/bin/adin", job.name
                understood(adin, rest)


def test_nothing_reaches_production_without_approval():
    changes = {("ct", "run"), ("ct", "reconcile"), ("model", "rollback"), ("features", "apply")}
    changes |= {("features", "materialize")}
    for job in jobs():
        if changes & {(words[1], words[2]) for words in job.words if words[0] == ".venv/bin/adin"}:
            assert job.manual, job.name


def test_the_delivered_items_each_have_a_job():
    called = {file: {" ".join(words[1:3]) for job in gitlab(file) for words in job.words} for file in FILES}
    training = {"features plan", "dataset build", "ct run", "ct try", "problem tune", "model compare", "model show"}
    assert training <= called["training"]
    assert {"features materialize", "model show", "dataset show", "predict parking_occupancy"} <= called["inference"]


def test_the_jenkinsfile_calls_what_gitlab_calls(adin):
    text = {command for job in jobs() for command in job.commands} | {"make environments"}
    known = {command.replace("$CI_COMMIT_REF_SLUG", "$EXPERIMENT") for command in text}
    assert jenkins() and set(jenkins()) <= known


def test_the_jobs_that_need_no_servers_end_well_in_order():
    ran, name = [], names()[0]
    for job in gitlab("training"):
        if job.variables.get("PROBLEM", name) != name:
            continue
        for words in job.words:
            if words[1:3] == ["problem", "check"] or words[-1] == "--check":
                subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
                ran.append(job.stage)
    assert ran == ["check", "test"]
