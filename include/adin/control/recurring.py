"""Where Kubeflow Pipelines owns the schedule: two recurring runs a problem, of which its mode enables at most one."""

from __future__ import annotations

import logging
from typing import Any

from adin.errors import NotFoundError, ServiceError
from adin.models import registry
from adin.pipelines import compiled
from adin.pipelines.client import KfpClient
from adin.pipelines.modes import PIPELINES
from adin.problem import Problem, problem
from adin.run_key import content_hash

log = logging.getLogger(__name__)

#: Named as dataset, the pipelines take the newest version there is when they run.
NEWEST = "newest"


def follow(name: str) -> dict[str, bool]:
    """Make the recurring runs be as ``problem.yaml`` and the mode say, and read them back.

    One whose schedule or pipeline is another than today's is disabled, and deleted once no run of it goes. Of what was
    due while they were disabled the latest time alone is run.

    :returns: which pipelines are enabled; empty where Airflow owns the schedule.
    :raises ServiceError: Kubeflow Pipelines does not answer, or shows something else than was asked of it.
    """
    try:
        spec: Problem | None = problem(name)
    except NotFoundError:  # a model whose problem is gone has no schedule
        spec = None
    client, mode = KfpClient(), registry().state(name).mode
    if spec is None or spec.run.owner != "kfp":
        return _none(client, name)
    wanted = {_name(spec, pipeline): pipeline for pipeline in PIPELINES.values()}
    enabled = PIPELINES.get(mode)
    found = _ours(client, name)
    # first off, then on: at no moment do both pipelines train
    for title, each in found.items():
        if wanted.get(title) != enabled and each.status == "ENABLED":
            client.switch(each.recurring_run_id, on=False)
    for title, pipeline in wanted.items():
        if title not in found:
            client.recur(
                compiled(pipeline), _arguments(spec), name=title, cron=str(spec.run.cron), on=pipeline == enabled
            )
        elif pipeline == enabled and found[title].status != "ENABLED":
            client.switch(found[title].recurring_run_id, on=True)
    _drop_old(client, [each for title, each in found.items() if title not in wanted])
    now = {wanted[title]: each.status == "ENABLED" for title, each in _ours(client, name).items() if title in wanted}
    if now != {pipeline: pipeline == enabled for pipeline in wanted.values()}:
        raise ServiceError(f"The recurring runs of {name} are {now}, mode is {mode}.", f"`adin ct reconcile {name}`.")
    return now


def _none(client: KfpClient, name: str) -> dict[str, bool]:
    """Disable what an earlier ``problem.yaml`` left; that Kubeflow Pipelines is away stops nobody."""
    try:
        found = list(_ours(client, name).values())
        for each in found:
            client.switch(each.recurring_run_id, on=False)
        _drop_old(client, found)
    except ServiceError as error:
        log.warning("not known whether recurring runs of %s are left: %s", name, error)
    return {}


def _arguments(spec: Problem) -> dict[str, str]:
    return {"problem": spec.name, "dataset": NEWEST, "run_key": "[[RunUUID]]", **spec.train.limits}


def _name(spec: Problem, pipeline: str) -> str:
    facts = {"cron": spec.run.cron, "pipeline": compiled(pipeline).read_text(), "arguments": _arguments(spec)}
    return f"{_prefix(spec.name)}{pipeline}.{content_hash(facts)[:12]}"


def _prefix(name: str) -> str:
    return f"adin.{name}."


def _ours(client: KfpClient, name: str) -> dict[str, Any]:
    return {each.display_name: each for each in client.recurring() if each.display_name.startswith(_prefix(name))}


def _drop_old(client: KfpClient, old: list[Any]) -> None:
    going = {run.recurring for run in client.unended()} if old else set()
    for each in old:
        if each.recurring_run_id not in going:  # deleting it would end its run
            client.drop_recurring(each.recurring_run_id)
