"""The CI pipelines for users as lists of commands, in the order in which they run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from string import Template
from typing import Any

import yaml
from adin.settings import ROOT

GITLAB = ROOT / "deploy" / "gitlab"
JENKINS = ROOT / "deploy" / "jenkins" / "Jenkinsfile"
NO_JOBS = {"stages", "default", "variables", "include", "workflow"}


@dataclass(frozen=True)
class Job:
    """One job for one problem.

    :param manual: somebody must approve it first.
    """

    name: str
    stage: str
    commands: tuple[str, ...]
    variables: dict[str, str]
    manual: bool

    @property
    def words(self) -> list[list[str]]:
        """Return each command with its variables filled in; one that is unknown is a KeyError."""
        given = {"CI_COMMIT_REF_SLUG": "try-1", "CI_JOB_NAME": self.name, **self.variables}
        return [shlex.split(Template(command).substitute(given)) for command in self.commands]


def gitlab(name: str) -> list[Job]:
    """Return the jobs of a file, by stage, then by problem."""
    read = yaml.safe_load((GITLAB / f"{name}.gitlab-ci.yml").read_text())
    stages = read["stages"]
    found = []
    for job, body in read.items():
        if job in NO_JOBS or job.startswith("."):
            continue
        whole = _extended(read, body)
        for row in whole.get("parallel", {}).get("matrix", [{}]):
            manual = any(rule.get("when") == "manual" for rule in whole.get("rules", []))
            found.append(Job(job, whole["stage"], tuple(whole["script"]), dict(row), manual))
    return sorted(found, key=lambda job: (stages.index(job.stage), job.variables.get("PROBLEM", "")))


def jenkins() -> list[str]:
    """Return the shell commands of the Jenkinsfile in order."""
    return re.findall(r"sh '([^']+)'", JENKINS.read_text())


def _extended(read: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    base = body.get("extends")
    return {**(_extended(read, read[base]) if base else {}), **body}
