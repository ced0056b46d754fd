"""``/adin/api/v1``: models and datasets as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from adin.airflow.web import stores
from adin.airflow.web.access import CallerDep, allowed
from adin.errors import DataError, NotFoundError, RefusedError
from adin.models.log import VersionState

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


@router.get("/search")
def search(
    who: CallerDep,
    model: str = "*",
    metric: Annotated[tuple[str, ...], Query()] = (),
    tag: Annotated[tuple[str, ...], Query()] = (),
    split: str = "test",
    slice_: Annotated[str, Query(alias="slice")] = "all",
    dataset: str = "",
    feature: str = "",
    state: VersionState | None = None,
    owner: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    order: str = "model",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: str = "",
) -> dict[str, Any]:
    """Return a page of the versions that fit all that is asked for; `next` asks for the page behind it.

    Written as `adin model search` takes it: `metric=auc>=0.71`, `tag=team=risk`, `order=-auc`; times without a zone are
    UTC. Versions of models the caller may not see are left out, so a page may be short and not the last.
    """
    from adin.models import Query as Search
    from adin.models.search import bounds, pair

    asked = Search(
        model,
        tags=dict(pair(each, "=") for each in tag),
        metrics=bounds(metric),
        split=split,
        slice_=slice_,
        dataset=dataset,
        feature=feature,
        state=state,
        owner=owner,
        since=_zoned(since),
        until=_zoned(until),
        order=order,
        limit=limit,
        after=after,
    )
    registry = stores.models()
    page = registry.search(asked)
    seen = {name for name in {version.model for version in page.versions} if who.may("read", name)}
    states = {name: registry.state(name).versions for name in seen}
    found = [
        {
            "model": each.model,
            "version": each.number,
            "state": states[each.model][each.number],
            **each.manifest.model_dump(mode="json", include={"created", "dataset", "owner", "tags", "metrics"}),
        }
        for each in page.versions
        if each.model in seen
    ]
    return {"versions": found, "next": page.next}


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


@router.get("/models/{model}/versions/{version}/card", dependencies=[readable])
def card(model: str, version: int) -> dict[str, Any]:
    """Return everything on record about a version: the model card."""
    from adin.models import card as cards

    return cards.card(stores.models(), model, version)


@router.get("/models/{model}/compare", dependencies=[readable])
def compare(model: str, v: Annotated[list[int], Query(min_length=2, max_length=6)]) -> dict[str, Any]:
    """Return versions beside each other: data, parameters, features, metrics by slice; the first is the measure."""
    from adin.models.compare import compare as beside

    return beside(stores.models(), [(model, number) for number in v])


@router.get("/models/{model}/history", dependencies=[readable])
def history(model: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
    """Return the newest entries of the log, newest first."""
    return [entry.model_dump(mode="json") for entry in stores.models().log(model)[::-1][:limit]]


# a plan loads the version beside the one that answers: not for everybody who may look
@router.get("/models/{model}/rollback", dependencies=[Depends(allowed("rollback"))])
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
    from adin import control

    stores.use_control()
    control.freeze(model, actor=who.name, reason=asked.reason)
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


def _zoned(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


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
