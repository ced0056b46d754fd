"""Which pipeline a training run submits, and how it ended."""

from __future__ import annotations

from typing import Any

from adin import datasets
from adin.datasets.versions import inputs_hash
from adin.errors import RefusedError
from adin.models import Query, registry
from adin.window import Window

_PIPELINES = {"auto_deploy": "train_and_deploy", "train_only": "train_only"}


def pipeline_for(name: str, window: Window, *, force: bool = False) -> str:
    """Return the pipeline for a problem's mode of continuous training.

    :param window: events to learn from.
    :param force: train although nothing changed since a version was trained.
    :raises RefusedError: training is stopped, or a version was trained from the very same inputs.
    """
    models = registry()
    mode = models.state(name).mode
    if mode not in _PIPELINES:
        raise RefusedError(f"Training of {name} is {mode}.", f"Resume it with `adin ct resume {name}`.")
    same = datasets.find(name, inputs_hash(name, window))
    if same and not force:
        trained = models.search(Query(name, dataset=same.commit)).versions
        if trained:
            raise RefusedError(
                f"Version {trained[-1].number} of {name} was trained on the same data, {same.commit[:12]}."
            )
    return _PIPELINES[mode]


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
