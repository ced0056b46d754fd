"""``/adin/api/v1``: models and datasets as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from adin.airflow.web import stores
from adin.airflow.web.access import CallerDep, allowed
from adin.errors import DataError, NotFoundError, RefusedError

router = APIRouter(prefix="/api/v1", tags=["adin"])
readable = Depends(allowed("read"))


class Reasoned(BaseModel):
    """Why; stands in the log."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=500)


class RollbackRequest(Reasoned):
    """Where to: a version, a time (ISO 8601, UTC), or ``previous``."""

    target: str = Field("previous", min_length=1, max_length=40)


class UnfreezeRequest(Reasoned):
    """Whether the version stays, or the champion and mode before the pin return."""

    keep_version: bool = False


class StopRequest(Reasoned):
    """How far training stops, and what becomes of runs in flight; none of them deploys."""

    mode: Literal["stopped", "train_only"] = "stopped"
    running: Literal["finish", "cancel"] = "finish"


@router.get("/models")
def models(who: CallerDep) -> list[dict[str, Any]]:
    """Return the models the caller may see, and how each stands; of a damaged one, what is wrong with it."""
    found = stores.models()
    return [_state_or_trouble(name) for name in found.models() if who.may("read", name)]


@router.get("/models/{model}", dependencies=[readable])
def model(model: str) -> dict[str, Any]:
    """Return how a model stands: champion, what is under load, mode, pin, state of each version."""
    return _state(model)


@router.get("/models/{model}/versions", dependencies=[readable])
def versions(
    model: str, limit: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[int | None, Query(ge=1)] = None
) -> list[dict[str, Any]]:
    """Return versions, newest first; the next page begins ``before`` the last number of this one."""
    registry = stores.models()
    numbers = sorted((n for n in registry.digests(model) if before is None or n < before), reverse=True)[:limit]
    return [{"version": v.number, **v.manifest.model_dump(mode="json")} for v in registry.some(model, numbers)]


@router.get("/models/{model}/versions/{version}", dependencies=[readable])
def version(model: str, version: int) -> dict[str, Any]:
    """Return one version's manifest."""
    found = stores.models().version(model, version)
    return {"version": found.number, "sha256": found.digest, **found.manifest.model_dump(mode="json")}


@router.get("/models/{model}/history", dependencies=[readable])
def history(model: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
    """Return the newest entries of the log, newest first."""
    return [entry.model_dump(mode="json") for entry in stores.models().log(model)[::-1][:limit]]


@router.get("/models/{model}/rollback", dependencies=[readable])
def plan(model: str, target: str = "previous") -> dict[str, Any]:
    """Return what a rollback would change; changes nothing."""
    from adin import control

    stores.use_control()
    return control.plan(model, target).as_dict()


@router.post("/models/{model}/rollback", dependencies=[Depends(allowed("rollback"))], status_code=202)
def rollback(model: str, asked: RollbackRequest, who: CallerDep) -> dict[str, str]:
    """Start the pipeline ``rollback`` and return its run; `GET /ct/{model}` tells when it is done.

    Refused where the problem asks for the approval of a second person: the DAG waits for that.
    """
    from adin import control
    from adin.problem import problem

    if problem(model).rollback.approval:
        raise RefusedError(f"A rollback of {model} must be approved.", f"Start the DAG rollback__{model}; it asks.")
    stores.use_control()
    found = control.plan(model, asked.target).check()
    return {"run": control.submit(model, str(found.version), reason=asked.reason, by=who.name)}


@router.post("/models/{model}/freeze", dependencies=[Depends(allowed("freeze"))])
def freeze(model: str, asked: Reasoned, who: CallerDep) -> dict[str, Any]:
    """Pin the champion: nothing is promoted until the pin is lifted."""
    registry = stores.models()
    if not _state(model)["frozen"]:
        registry.append(model, "freeze", actor=who.name, reason=asked.reason)
    return _state(model)


@router.post("/models/{model}/unfreeze", dependencies=[Depends(allowed("unfreeze"))])
def unfreeze(model: str, asked: UnfreezeRequest, who: CallerDep) -> dict[str, Any]:
    """Lift the pin; after a rollback also bring back champion and mode, unless the version is to stay."""
    from adin import control

    stores.use_control()
    control.unfreeze(model, keep_version=asked.keep_version, actor=who.name, reason=asked.reason)
    return _state(model)


@router.get("/ct/{model}", dependencies=[readable])
def training(model: str) -> dict[str, Any]:
    """Return how continuous training stands: mode, by whom, what answers, runs in flight, a rollback under way."""
    from adin import control

    stores.use_control()
    return control.status(model).as_dict()


@router.post("/ct/{model}/stop", dependencies=[Depends(allowed("ct"))])
def stop(model: str, asked: StopRequest, who: CallerDep) -> dict[str, Any]:
    """Stop continuous training and return the runs that were in flight."""
    from adin import control

    stores.use_control()
    runs = control.stop(model, actor=who.name, reason=asked.reason, mode=asked.mode, running=asked.running)
    return {"in_flight": runs}


@router.post("/ct/{model}/resume", dependencies=[Depends(allowed("ct"))])
def resume(model: str, asked: Reasoned, who: CallerDep) -> dict[str, Any]:
    """Let continuous training deploy again; nothing is caught up."""
    from adin import control

    stores.use_control()
    control.resume(model, actor=who.name, reason=asked.reason)
    return _state(model)


@router.get("/datasets/{model}", dependencies=[readable])
def datasets(model: str) -> list[dict[str, Any]]:
    """Return the dataset versions of a problem, newest first."""
    from adin import datasets as lake

    stores.use_lake()
    return [{"commit": found.commit, **found.manifest} for found in lake.versions(model)]


@router.get("/datasets/{model}/{commit}", dependencies=[readable])
def dataset(model: str, commit: str) -> dict[str, Any]:
    """Return one dataset version's manifest."""
    from adin import datasets as lake

    stores.use_lake()
    found = lake.version(model, commit)
    return {"commit": found.commit, **found.manifest}


def _state_or_trouble(name: str) -> dict[str, Any]:
    try:
        return _state(name)
    except DataError as error:  # the others are listed none the less
        return {"model": name, "problem": str(error)}


def _state(name: str) -> dict[str, Any]:
    state = stores.models().state(name)
    if not state.seq:
        raise NotFoundError(f"No model {name!r}.")
    return {
        "model": name,
        "champion": state.champion,
        "previous": state.previous,
        "challenger": state.challenger,
        "served": state.served,
        "mode": state.mode,
        "frozen": state.frozen,
        "versions": {str(number): each for number, each in state.versions.items()},
        "entries": state.seq,
    }
