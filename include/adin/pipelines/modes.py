"""Which pipeline a training run submits, and how it ended."""

from __future__ import annotations

import hashlib
from typing import Any

from adin import datasets
from adin.datasets.versions import inputs_hash
from adin.errors import RefusedError
from adin.models import ModelManifest, Query, registry
from adin.models.artifact import CODE
from adin.problem import Problem, problem
from adin.window import Window

#: Pipeline of each mode that trains.
PIPELINES = {"auto_deploy": "train_and_deploy", "train_only": "train_only"}


def pipeline_for(name: str, window: Window, *, force: bool = False) -> str:
    """Return the pipeline for a problem's mode of continuous training.

    :param window: events to learn from.
    :param force: train although nothing changed since a version was trained.
    :raises RefusedError: training is stopped, or a version was trained on the same data, code and parameters.
    """
    models = registry()
    mode = models.state(name).mode
    if mode not in PIPELINES:
        raise RefusedError(f"Training of {name} is {mode}.", f"Resume it with `adin ct resume {name}`.")
    same = datasets.find(name, inputs_hash(name, window))
    if same and not force:
        spec, found = problem(name), models.search(Query(name, dataset=same.commit))
        made = [each for each in found.versions if not each.manifest.experimental]
        trained = [each for each in made if _trained_as(spec, each.manifest)]
        if trained:
            raise RefusedError(
                f"Version {trained[-1].number} of {name} was trained on the same data, {same.commit[:12]}, "
                "by the same code and parameters."
            )
    return PIPELINES[mode]


def _trained_as(spec: Problem, manifest: ModelManifest) -> bool:
    """Tell whether a version came of the training code and parameters a problem has now."""
    code = hashlib.sha256(spec.code.read_bytes()).hexdigest()
    kept = {file.name: file.sha256 for file in manifest.files}
    return kept.get(CODE) == code and manifest.parameters == spec.train.params


def outcome(name: str, kfp_run: str) -> dict[str, Any]:
    """Return how a training run left things: the version it made, the champion, and what answers.

    :returns: ``agree`` is false where the champion is not what the model server answers with.
    """
    from adin.serving.client import ServingClient

    models = registry()
    state = models.state(name)
    served = ServingClient().status(name)["version"] if state.champion else None
    newest = max(state.versions, default=None)
    found = models.version(name, newest).manifest if newest else None
    return {
        "kfp_run": kfp_run,
        "version": newest,
        "state": state.versions[newest] if newest else None,
        "dataset": found.dataset if found else None,
        "champion": state.champion,
        "served": served,
        "agree": served == state.champion,
    }
