"""After a crash: bring to an end what was begun, and make serving agree with the log."""

from __future__ import annotations

from adin.control import ct, history, recurring, rollback, swap
from adin.errors import AdinError, NotFoundError, RefusedError
from adin.models import Registry, registry
from adin.pipelines.client import KfpClient
from adin.problem import problem
from adin.serving.client import ServingClient


def reconcile(name: str, *, actor: str) -> list[str]:
    """Repair what a killed run left, and return what was done; nothing if all agrees.

    A rollback whose run is dead is ended: if the log names its version already, that version is put under load and
    training goes on without deploying; if not, training is as before. A failed swap whose freeze is missing gets it.

    :raises NotFoundError: there is no such model.
    :raises RefusedError: a rollback is still under way, or the champion may not come under load.
    :raises ServiceError: Kubeflow Pipelines, which knows whether it is, or the model server does not answer.
    """
    models, serving = registry(), ServingClient()
    state = ct.known(models, name)
    done = []
    begun = history.begun(models.log(name))
    if begun:
        done.append(_end(models, serving, name, begun, actor))
        state = models.state(name)
    if _freeze_missing(models, name):
        models.append(name, "freeze", actor=actor, reason="its last promotion failed under load")
        done.append("froze the model, whose last promotion failed under load")
    if state.champion is not None and not _agree(serving, name, state.champion, state.served):
        version = swap.follow(problem(name), models, serving, actor=actor, reason="reconciled")
        done.append(f"put version {version} under load, as the log says")
    recurring.follow(name)
    return done


def _end(models: Registry, serving: ServingClient, name: str, begun: history.Begun, actor: str) -> str:
    if _goes(begun):
        raise RefusedError(
            f"The rollback of {name} to version {begun.version} is under way in run {begun.kfp_run}.", "Wait for it."
        )
    if not begun.pinned:
        reason = "its run died before anything was changed"
        rollback.end(models, name, begun.mode, by=actor, reason=reason, run_key=begun.run_key)
        return f"gave up the rollback to version {begun.version}, which had changed nothing; training is {begun.mode}"
    try:
        swap.follow(problem(name), models, serving, actor=actor, reason="reconciled", run_key=begun.run_key)
    except AdinError as error:
        if not error.retryable:
            rollback.undo(models, serving, name, begun.version, by=actor, run_key=begun.run_key, error=error)
        raise
    reason = "its run died; brought to an end"
    rollback.end(models, name, "train_only", by=actor, reason=reason, run_key=begun.run_key)
    return f"brought the rollback to version {begun.version} to its end; training is train_only"


def _goes(begun: history.Begun) -> bool:
    client = KfpClient()
    try:
        return not client.get(begun.kfp_run).done
    except NotFoundError:
        return False


def _freeze_missing(models: Registry, name: str) -> bool:
    last = next(
        (e for e in reversed(models.log(name)) if e.event in ("undone", "freeze", "unfreeze", "rollback")), None
    )
    return bool(last and last.event == "undone" and last.evidence.get("freeze") and not models.state(name).frozen)


def _agree(serving: ServingClient, name: str, champion: int, served: int | None) -> bool:
    try:
        return int(serving.status(name)["version"]) == champion == served
    except NotFoundError:
        return False
