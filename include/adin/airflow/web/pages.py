"""Pages as plain HTML: they work without scripts, on a laptop's screen and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from adin.airflow.web import api, charts, stores
from adin.airflow.web.access import allowed, may
from adin.errors import NotFoundError
from adin.settings import settings

if TYPE_CHECKING:
    from jinja2 import Environment

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
readable, changeable = Depends(allowed("GET")), Depends(allowed("POST"))
Reason = Annotated[str, Form(min_length=1, max_length=500)]
EVALUATION = "evidence/evaluation.json"


@router.get("/models")
def models(request: Request, user: GetUserDep) -> str:
    """Show the models a user may see."""
    found = stores.models()
    rows = []
    for name in found.models():
        if may("GET", name, user):
            state = found.state(name)
            shown = state.champion or max(state.versions, default=None)
            version = found.version(name, shown) if shown else None
            rows.append({"state": state, "version": version, "last": found.log(name)[-1]})
    return _page(request, "models.html", rows=rows)


@router.get("/models/{model}", dependencies=[readable])
def model(request: Request, model: str, user: GetUserDep) -> str:
    """Show one model: how it stands, what it was, its versions."""
    from adin import control

    found = stores.models()
    state = found.state(model)
    if not state.seq:
        raise NotFoundError(f"No model {model!r}.")
    stores.use_control()
    versions = found.versions(model)
    history = found.log(model)
    champions = {entry.aliases["champion"] for entry in history if "champion" in entry.aliases}
    names = list(dict.fromkeys(name for each in versions for name in _test_metrics(each)))
    points = {name: _points(versions, name) for name in names}
    trends = [(name, charts.trend(found, name, champions)) for name, found in points.items() if len(found) > 1]
    return _page(
        request,
        "model.html",
        state=state,
        training=control.status(model),
        versions=versions[::-1],
        names=names,
        trends=trends,
        metrics=_test_metrics,
        history=found.history(model)[::-1],
        may_change=may("POST", model, user),
    )


@router.get("/models/{model}/rollback", dependencies=[readable])
def plan(request: Request, model: str, user: GetUserDep, to: str = "previous") -> str:
    """Show what a rollback would change, and ask."""
    from adin import control

    stores.use_control()
    return _page(request, "rollback.html", plan=control.plan(model, to), may_change=may("POST", model, user))


@router.post("/models/{model}/rollback", dependencies=[changeable])
def rollback(
    request: Request, model: str, user: GetUserDep, to: Annotated[str, Form(max_length=40)], reason: Reason
) -> RedirectResponse:
    """Start the rollback and show the model, which tells how it goes."""
    api.rollback(model, api.RollbackRequest(target=to, reason=reason), user)
    return _back(request, model)


@router.post("/models/{model}/{step}", dependencies=[changeable])
def change(
    request: Request,
    model: str,
    step: Literal["freeze", "unfreeze", "stop", "resume"],
    user: GetUserDep,
    reason: Reason,
) -> RedirectResponse:
    """Pin, lift the pin, stop or resume training, and show the model."""
    if step == "stop":
        api.stop(model, api.StopRequest(reason=reason), user)
    elif step == "unfreeze":
        api.unfreeze(model, api.UnfreezeRequest(reason=reason), user)
    else:
        {"freeze": api.freeze, "resume": api.resume}[step](model, api.Reasoned(reason=reason), user)
    return _back(request, model)


@router.get("/models/{model}/versions/{version}", dependencies=[readable])
def version(request: Request, model: str, version: int) -> str:
    """Show one version: where it comes from, how good it is, and why it was promoted or held."""
    registry = stores.models()
    found = registry.version(model, version)
    names = {file.name for file in found.manifest.files}
    evaluation = json.loads(registry.read(model, version, EVALUATION)) if EVALUATION in names else {}
    entries = [entry for entry in registry.log(model) if entry.version == version]
    return _page(
        request,
        "version.html",
        found=found,
        state=registry.state(model),
        evaluation=evaluation,
        evidence=evaluation.get("evidence") or {},
        entries=entries,
    )


@router.get("/models/{model}/compare", dependencies=[readable])
def compare(request: Request, model: str, v: Annotated[list[int], Query(min_length=2, max_length=6)]) -> str:
    """Show versions side by side; what differs is marked."""
    registry = stores.models()
    found = [registry.version(model, number) for number in v]
    facts = [_comparable(each.manifest.model_dump(mode="json")) for each in found]
    keys = list(dict.fromkeys(key for each in facts for key in each))
    rows = [(key, values, len(set(values)) > 1) for key in keys for values in [[each.get(key, "-") for each in facts]]]
    return _page(request, "compare.html", model=model, found=found, rows=rows)


@router.get("/datasets")
def datasets(request: Request, user: GetUserDep) -> str:
    """Show the dataset versions of each problem, and which models learned from them."""
    from adin import datasets as lake
    from adin import problem

    stores.use_lake()
    registry = stores.models()
    shown = []
    for name in problem.names():
        if may("GET", name, user):
            learned: dict[str, list[int]] = {}
            for each in registry.versions(name):
                learned.setdefault(each.manifest.dataset, []).append(each.number)
            shown.append((name, lake.versions(name), learned))
    return _page(request, "datasets.html", shown=shown)


@router.get("/datasets/{model}/{commit}", dependencies=[readable])
def dataset(request: Request, model: str, commit: str) -> str:
    """Show one dataset version: what it was made of, and what was made of it."""
    from adin import datasets as lake

    stores.use_lake()
    found = lake.version(model, commit)
    learned = [each for each in stores.models().versions(model) if each.manifest.dataset == found.commit]
    return _page(request, "dataset.html", found=found, learned=learned)


@router.get("/status")
def status(request: Request, user: GetUserDep) -> str:
    """Show the alerts that are up, how each part of the stack is, and how fresh the data is."""
    from adin.alerts import book

    store = stores.models().store
    standing = sorted(book.load(store)[0].alerts.values(), key=lambda each: each.alert.since, reverse=True)
    # an alert about a model is for those who may see the model
    named = [each for each in standing if _visible(each.alert.labels, user)]
    runbook = settings().runbook_url
    return _page(request, "status.html", alerts=named, found=book.status(store), runbook=runbook)


def _visible(labels: Mapping[str, str], user: Any) -> bool:
    model = labels.get("model") or labels.get("problem")
    return model is None or may("GET", model, user)


def trouble(request: Request, status: int, text: str) -> HTMLResponse:
    """Return the page for an error of ours."""
    return HTMLResponse(_page(request, "trouble.html", text=text), status)


def _back(request: Request, model: str) -> RedirectResponse:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/models/{model}", 303)


def _page(request: Request, template: str, **values: Any) -> str:
    return _templates().get_template(template).render(root=request.scope.get("root_path", ""), **values)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("adin.airflow.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["number"] = lambda value: "-" if value is None else f"{value:.4f}"
    made.filters["moment"] = lambda stamp: f"{datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M}"
    made.filters["minute"] = lambda time: f"{time:%Y-%m-%d %H:%M}"
    return made


def _test_metrics(version: Any) -> dict[str, float | None]:
    return dict(version.manifest.metrics.get("test", {}).get("all", {}))


def _points(versions: list[Any], name: str) -> list[tuple[int, float]]:
    found = ((version.number, _test_metrics(version).get(name)) for version in versions)
    return [(number, value) for number, value in found if value is not None]


def _comparable(manifest: dict[str, Any]) -> dict[str, str]:
    """Return a manifest's facts as lines one can lay side by side."""
    lines = {key: str(manifest[key]) for key in ("created", "dataset", "window", "registry", "code_version", "service")}
    lines |= {f"parameter {name}": str(value) for name, value in manifest["parameters"].items()}
    lines["features"] = f"{len(manifest['features'])}: {', '.join(manifest['features'])}"
    for split, slices in manifest["metrics"].items():
        for slice_, values in slices.items():
            for name, value in values.items():
                lines[f"{name}, {split}, {slice_}"] = "-" if value is None else f"{value:.4f}"
    return lines
