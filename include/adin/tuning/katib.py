"""The same search as an Experiment of Katib. Its trials run the same command as here, and print the metric."""

from __future__ import annotations

import math
from typing import Any

from adin.errors import ConfigError
from adin.problem import Problem
from adin.tuning.spec import Parameter, Tuning

#: Katib's searches which take a seed, and how they name it.
_SEED = {"random": "random_state", "tpe": "random_state", "multivariate-tpe": "random_state"}
IMAGE = "adin/ml:0.1.0"
#: Holds the ADIN_CONN_* variables of the services a trial reads from.
SECRET = "adin-connections"  # noqa: S105 - the name of one


def experiment(spec: Problem, dataset: str, *, namespace: str = "kubeflow", image: str = IMAGE) -> dict[str, Any]:
    """Return the Experiment that does on Kubernetes what ``adin problem tune`` does here.

    :param dataset: commit of the dataset version each trial learns from.
    :raises ConfigError: the problem has no ``tune``, or the dataset is not named by its commit.
    """
    tune = tuning_of(spec)
    if not dataset or dataset == "newest":
        raise ConfigError(
            "An Experiment needs a dataset version by its commit.", f"See `adin dataset list {spec.name}`."
        )
    objective = {"type": tune.objective.type, "objectiveMetricName": tune.objective.metric}
    goal = {} if tune.objective.goal is None else {"goal": tune.objective.goal}
    algorithm: dict[str, Any] = {"algorithmName": tune.algorithm}
    if key := _SEED.get(tune.algorithm):
        algorithm["algorithmSettings"] = [{"name": key, "value": str(tune.seed)}]
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": f"{spec.name.replace('_', '-')}-{dataset[:8]}", "namespace": namespace},
        "spec": {
            "objective": objective | goal,
            "algorithm": algorithm,
            "parameters": [_parameter(each) for each in tune.parameters],
            "maxTrialCount": tune.maxTrialCount,
            "parallelTrialCount": tune.parallelTrialCount,
            "maxFailedTrialCount": tune.maxFailedTrialCount,
            "trialTemplate": _template(spec, tune, dataset, image),
        },
    }


def tuning_of(spec: Problem) -> Tuning:
    """Return a problem's search; :raises ConfigError: it has none."""
    if spec.tune is None:
        raise ConfigError(f"{spec.path / 'problem.yaml'} has no tune.", "See docs/tuning.md.")
    return spec.tune


def _parameter(each: Parameter) -> dict[str, Any]:
    if each.list:
        space: dict[str, Any] = {"list": [_text(value) for value in each.list]}
    else:
        bounds = {"min": each.min, "max": each.max, "step": each.step}
        space = {name: _text(value) for name, value in bounds.items() if value is not None}
        if each.distribution != "uniform":
            space["distribution"] = each.distribution
    return {"name": each.name, "parameterType": each.type, "feasibleSpace": space}


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"


def _template(spec: Problem, tune: Tuning, dataset: str, image: str) -> dict[str, Any]:
    names = [each.name for each in tune.parameters]
    command = ["python", "-m", "adin.tuning.trial", spec.name, "--dataset", dataset]
    command += [f"{name}=${{trialParameters.{name}}}" for name in names]
    limits = {"cpu": f"{spec.train.cpu:g}", "memory": spec.train.memory}
    container = {
        "name": "trial",
        "image": image,
        "command": command,
        "envFrom": [{"secretRef": {"name": SECRET}}],
        "resources": {"requests": limits, "limits": dict(limits)},
    }
    return {
        "primaryContainerName": "trial",
        "trialParameters": [{"name": name, "reference": name} for name in names],
        "trialSpec": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": math.ceil(tune.trial_deadline.total_seconds()),
                "template": {
                    "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
                    "spec": {"restartPolicy": "Never", "containers": [container]},
                },
            },
        },
    }
