"""``/adin/api/v1``: models and datasets as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Depends, Query

from adin.airflow.web import stores
from adin.airflow.web.access import allowed, may
from adin.errors import NotFoundError

router = APIRouter(prefix="/api/v1", tags=["adin"])
readable = Depends(allowed("GET"))


@router.get("/models")
def models(user: GetUserDep) -> list[dict[str, Any]]:
    """Return the models the user may see, and how each stands."""
    found = stores.models()
    return [_state(name) for name in found.models() if may("GET", name, user)]


@router.get("/models/{model}", dependencies=[readable])
def model(model: str) -> dict[str, Any]:
    """Return how a model stands: champion, what is under load, mode, pin, state of each version."""
    return _state(model)


@router.get("/models/{model}/versions", dependencies=[readable])
def versions(
    model: str, limit: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[int | None, Query(ge=1)] = None
) -> list[dict[str, Any]]:
    """Return versions, newest first; the next page begins ``before`` the last number of this one."""
    found = [each for each in stores.models().versions(model) if before is None or each.number < before]
    return [{"version": each.number, **each.manifest.model_dump(mode="json")} for each in found[::-1][:limit]]


@router.get("/models/{model}/versions/{version}", dependencies=[readable])
def version(model: str, version: int) -> dict[str, Any]:
    """Return one version's manifest."""
    found = stores.models().version(model, version)
    return {"version": found.number, "sha256": found.digest, **found.manifest.model_dump(mode="json")}


@router.get("/models/{model}/history", dependencies=[readable])
def history(model: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
    """Return the newest entries of the log, newest first."""
    return [entry.model_dump(mode="json") for entry in stores.models().log(model)[::-1][:limit]]


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
