"""Experimental runs: the same pipelines in a KFP experiment of their own, whose versions can never be deployed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from adin import datasets
from adin.errors import ConfigError
from adin.models import registry
from adin.pipelines import compiled
from adin.pipelines.client import KfpClient
from adin.problem import Problem
from adin.run_key import run_key

EXPERIMENT = "experimental"
#: Seconds a run has beside the time the problem gives to training or tuning.
_BESIDE = 1800


def run(
    spec: Problem,
    pipeline: str,
    dataset: str = "",
    *,
    branch: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a pipeline that deploys nothing, follow it to its end, and return the version it made.

    :param pipeline: ``train_only`` or ``tune``.
    :param dataset: commit, may be shortened; default the newest version.
    :param branch: experiment whose branch of the data has the newest version; default production's.
    :raises RunFailedError: the run ended badly or not in time; it is terminated then.
    """
    if pipeline not in ("train_only", "tune"):
        raise ConfigError(f"{pipeline} is no pipeline of experiments.", "Take train_only or tune.")
    found = datasets.version(spec.name, dataset) if dataset else datasets.newest(spec.name, branch=branch)
    key = run_key("experiment", spec.name, f"{pipeline}{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    client = KfpClient()
    arguments = {"problem": spec.name, "dataset": found.commit, "run_key": key, **spec.train.limits}
    started = client.submit(compiled(pipeline), arguments, name=key, experiment=EXPERIMENT)
    progress(f"run {started} on dataset {found.commit[:12]}")
    tuning = spec.tune.deadline if spec.tune and pipeline == "tune" else None
    limit = spec.train.timeout.total_seconds() + (tuning.total_seconds() if tuning else 0) + _BESIDE
    try:
        client.wait(started, limit, 1, lambda seen: progress(f"{seen.state.lower()}"))
    except BaseException:
        client.terminate(started)  # also when somebody gives up waiting: it works for nobody
        raise
    models = registry()
    version = next(each for each in models.versions(spec.name) if each.manifest.run_key == key)
    told: dict[str, Any] = {
        "kfp_run": started,
        "version": version.number,
        "dataset": found.commit,
        "parameters": dict(version.manifest.parameters),
        "metrics": version.manifest.metrics.get("test", {}).get("all", {}),
    }
    if tuning:
        told["tuning"] = json.loads(models.read(spec.name, version.number, "evidence/tuning.json"))
    return told
