"""Continuous training of a model: how it stands, stop, resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from adin.control import history, recurring
from adin.errors import AdinError, NotFoundError, RefusedError
from adin.models import Registry, State, registry
from adin.models.log import Mode
from adin.pipelines.client import KfpClient, Run
from adin.problem import names
from adin.settings import settings

InFlight = Literal["finish", "cancel"]
#: Seconds a cancelled run has to end.
_END = 60


@dataclass(frozen=True)
class Status:
    """How continuous training of a model stands.

    :param mode: ``auto_deploy``, ``train_only`` or ``stopped``; with who set it, when and why.
    :param champion: what the log says; :param served: what it says was seen to answer.
    :param answers: version that answers now, None if none does or the server is away.
    :param in_flight: names of training runs that go, None if Kubeflow Pipelines does not answer.
    :param rollback: a rollback that was begun and has not ended: its target.
    """

    model: str
    mode: Mode
    set_by: str
    set_at: str
    reason: str
    champion: int | None
    served: int | None
    answers: int | None
    frozen: bool
    in_flight: list[str] | None
    rollback: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def status(name: str) -> Status:
    """Return how continuous training of a model stands.

    :raises NotFoundError: there is no such model.
    """
    models = registry()
    state, entries = known(models, name), models.log(name)
    changes = [entry for before, entry in pairwise(entries) if entry.mode != before.mode]
    set_ = changes[-1] if changes else None
    begun = history.begun(entries)
    try:
        runs: list[str] | None = [run.name for run in in_flight(name)]
    except AdinError:
        runs = None
    return Status(
        model=name,
        mode=state.mode,
        set_by=set_.actor if set_ else "",
        set_at=f"{set_.time:%Y-%m-%dT%H:%M:%SZ}" if set_ else "",
        reason=set_.reason if set_ else "as at the start",
        champion=state.champion,
        served=state.served,
        answers=_answers(name),
        frozen=state.frozen,
        in_flight=runs,
        rollback=begun.target if begun else None,
    )


def stop(
    name: str,
    *,
    actor: str,
    reason: str,
    mode: Mode = "stopped",
    running: InFlight = "finish",
    run_key: str = "",
) -> list[str]:
    """Stop continuous training, and return the runs that were in flight.

    The log comes first: from then on no run deploys, whatever it is doing.

    :param mode: ``stopped``, or ``train_only`` to go on training without deploying.
    :param running: what happens to runs in flight: ``finish`` lets them end and register their model, which is not
        deployed; ``cancel`` terminates them and waits until they have ended.
    :raises NotFoundError: there is no such model.
    :raises RefusedError: a rollback is under way.
    """
    if mode == "auto_deploy":
        raise RefusedError("auto_deploy stops nothing.", f"Use `adin ct resume {name}`.")
    models = registry()
    _no_rollback(models, name)
    if known(models, name).mode != mode:
        models.append(
            name,
            "ct_mode",
            mode=mode,
            actor=actor,
            reason=reason,
            evidence={"in_flight": running},
            run_key=run_key,
            begin=True,
        )
    recurring.follow(name)
    client = KfpClient()
    runs = in_flight(name, client)
    if running == "cancel":
        for run in runs:
            client.terminate(run.run_id)
        for run in runs:
            _ended(client, run)
        if runs and known(models, name).champion is not None:
            from adin.control.reconcile import reconcile

            reconcile(name, actor=actor)  # a run may have been killed between log and swap
    return [run.name for run in runs]


def resume(name: str, *, actor: str, reason: str, run_key: str = "") -> State:
    """Let continuous training deploy again, and return how the model stands.

    No storm follows. Where Airflow owns the schedule the next run is the next one due; Kubeflow Pipelines runs the
    latest time that was missed, once.

    :raises NotFoundError: there is no such model.
    :raises RefusedError: a rollback is under way.
    """
    models = registry()
    _no_rollback(models, name)
    if known(models, name).mode != "auto_deploy":
        models.append(name, "ct_mode", mode="auto_deploy", actor=actor, reason=reason, run_key=run_key)
    recurring.follow(name)
    return models.state(name)


def in_flight(name: str, client: KfpClient | None = None) -> list[Run]:
    """Return the training runs of a problem which have not ended and may deploy; those of experiments may not."""
    runs = (client or KfpClient()).unended(settings().production_experiment)
    return [run for run in runs if run.parameters.get("problem") == name and "dataset" in run.parameters]


def known(models: Registry, name: str) -> State:
    """Return the state of a model, or of a problem that has none yet; :raises NotFoundError: there is neither."""
    state = models.state(name)
    if not state.seq and name not in names():
        raise NotFoundError(f"No model {name!r}.", f"Known models: {', '.join(models.models()) or 'none yet'}.")
    return state


def _no_rollback(models: Registry, name: str) -> None:
    if begun := history.begun(models.log(name)):
        raise RefusedError(
            f"A rollback of {name} to version {begun.version} has not ended (run {begun.kfp_run}).",
            f"Wait for it; if its run is dead, `adin ct reconcile {name}`.",
        )


def _ended(client: KfpClient, run: Run) -> None:
    from adin.errors import RunFailedError

    try:
        client.wait(run.run_id, timeout=_END, poll=0.2)
    except RunFailedError:
        if not client.get(run.run_id).done:
            raise


def _answers(name: str) -> int | None:
    from adin.serving.client import ServingClient

    try:
        return int(ServingClient().status(name)["version"])
    except AdinError:
        return None
