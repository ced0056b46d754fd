"""Pages as plain HTML: they work without scripts, on a laptop's screen and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from adin.airflow.web import api, charts, stores
from adin.airflow.web.access import Caller, CallerDep, allowed
from adin.errors import DataError, NotFoundError
from adin.settings import settings

if TYPE_CHECKING:
    from jinja2 import Environment

    from adin.models import Registry

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
readable = Depends(allowed("read"))
Reason = Annotated[str, Form(min_length=1, max_length=500)]
Step = Literal["freeze", "unfreeze", "stop", "resume"]
EVALUATION, REPORT = "evidence/evaluation.json", "evidence/report.html"
#: Versions on one page of a model.
_SHOWN = 50
#: The report came with the version: it may show, and do nothing else.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"


@router.get("/models")
def models(request: Request, who: CallerDep) -> str:
    """Show the models somebody may see."""
    found = stores.models()
    names = [name for name in found.models() if who.may("read", name)]
    return page(request, "models.html", rows=[_row(found, name) for name in names])


@router.get("/models/{model}", dependencies=[readable])
def model(request: Request, model: str, who: CallerDep, before: Annotated[int | None, Query(ge=1)] = None) -> str:
    """Show one model: how it stands, what it was, its versions, the newest first and so many at a time."""
    from adin import control

    found = stores.models()
    state = found.state(model)
    if not state.seq:
        raise NotFoundError(f"No model {model!r}.")
    stores.use_control()
    numbers = sorted(number for number in state.versions if before is None or number < before)
    versions = found.some(model, numbers[-_SHOWN:])
    history = found.log(model)
    champions = {entry.aliases["champion"] for entry in history if "champion" in entry.aliases}
    names = list(dict.fromkeys(name for each in versions for name in _test_metrics(each)))
    points = {name: _points(versions, name) for name in names}
    trends = [(name, charts.trend(found, name, champions)) for name, found in points.items() if len(found) > 1]
    return page(
        request,
        "model.html",
        state=state,
        training=control.status(model),
        versions=versions[::-1],
        older=numbers[-_SHOWN] if len(numbers) > _SHOWN else None,
        newer=before is not None,
        names=names,
        trends=trends,
        metrics=_test_metrics,
        history=found.history(model)[::-1],
        may=_rights(who, model),
    )


@router.get("/models/{model}/rollback", dependencies=[Depends(allowed("rollback"))])
def plan(request: Request, model: str, to: str = "previous") -> str:
    """Show what a rollback would change, and ask."""
    from adin import control
    from adin.problem import problem

    stores.use_control()
    planned, approval = control.plan(model, to), problem(model).rollback.approval
    return page(request, "rollback.html", plan=planned, approval=approval)


@router.post("/models/{model}/rollback", dependencies=[Depends(allowed("rollback"))])
def rollback(
    request: Request, model: str, who: CallerDep, to: Annotated[str, Form(max_length=40)], reason: Reason
) -> RedirectResponse:
    """Start the rollback and show the model, which tells how it goes."""
    api.rollback(model, api.RollbackRequest(target=to, reason=reason), who)
    return _back(request, model)


def _may_step(model: str, step: Step, who: CallerDep) -> None:
    who.check("ct" if step in ("stop", "resume") else "freeze" if step == "freeze" else "unfreeze", model)


@router.post("/models/{model}/{step}", dependencies=[Depends(_may_step)])
def change(
    request: Request,
    model: str,
    step: Step,
    who: CallerDep,
    reason: Reason,
    keep_version: Annotated[bool, Form()] = False,
    running: Annotated[Literal["finish", "cancel"], Form()] = "finish",
) -> RedirectResponse:
    """Pin, lift the pin, stop or resume training, and show the model."""
    if step == "stop":
        api.stop(model, api.StopRequest(reason=reason, running=running), who)
    elif step == "unfreeze":
        api.unfreeze(model, api.UnfreezeRequest(reason=reason, keep_version=keep_version), who)
    else:
        {"freeze": api.freeze, "resume": api.resume}[step](model, api.Reasoned(reason=reason), who)
    return _back(request, model)


@router.get("/models/{model}/versions/{version}", dependencies=[readable])
def version(request: Request, model: str, version: int) -> str:
    """Show one version: where it comes from, how good it is, and why it was promoted or held."""
    registry = stores.models()
    found = registry.version(model, version)
    state = registry.state(model)
    names = set() if version in state.expired else {file.name for file in found.manifest.files}
    evaluation = json.loads(registry.read(model, version, EVALUATION)) if EVALUATION in names else {}
    entries = [entry for entry in registry.log(model) if entry.version == version]
    return page(
        request,
        "version.html",
        found=found,
        state=state,
        expired=version in state.expired,
        plots=REPORT in names,
        evaluation=evaluation,
        evidence=evaluation.get("evidence") or {},
        entries=entries,
    )


@router.get("/models/{model}/versions/{version}/evidence", dependencies=[readable])
def evidence(model: str, version: int) -> HTMLResponse:
    """Return the page with plots that was kept with a version, its hash checked."""
    content = stores.models().read(model, version, REPORT)
    return HTMLResponse(content, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/models/{model}/compare", dependencies=[readable])
def compare(request: Request, model: str, v: Annotated[list[int], Query(min_length=2, max_length=6)]) -> str:
    """Show versions side by side; what differs is marked."""
    return page(request, "compare.html", model=model, found=api.compare(model, v))


@router.get("/models/{model}/versions/{version}/card", dependencies=[readable])
def card(model: str, version: int) -> HTMLResponse:
    """Return the model card: everything on record about a version, on a page that needs nothing else."""
    from adin.models import card as cards

    return HTMLResponse(cards.html(api.card(model, version)), headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/datasets")
def datasets(request: Request, who: CallerDep) -> str:
    """Show the dataset versions of each problem, and which models learned from them."""
    from adin import datasets as lake
    from adin import problem

    stores.use_lake()
    registry = stores.models()
    shown = []
    for name in problem.names():
        if who.may("read", name):
            learned: dict[str, list[int]] = {}
            for each in registry.versions(name):
                learned.setdefault(each.manifest.dataset, []).append(each.number)
            shown.append((name, lake.versions(name), learned))
    return page(request, "datasets.html", shown=shown)


@router.get("/datasets/{model}/{commit}", dependencies=[readable])
def dataset(request: Request, model: str, commit: str) -> str:
    """Show one dataset version: what it was made of, and what was made of it."""
    from adin import datasets as lake
    from adin.models import Query as Search

    stores.use_lake()
    found = lake.version(model, commit)
    learned = stores.models().search(Search(model, dataset=found.commit, limit=1000)).versions
    return page(request, "dataset.html", found=found, learned=learned)


@router.get("/status")
def status(request: Request, who: CallerDep) -> str:
    """Show the alerts that are up, how each part of the stack is, and how fresh the data is."""
    from adin.alerts import book

    store = stores.models().store
    standing = sorted(book.load(store)[0].alerts.values(), key=lambda each: each.alert.since, reverse=True)
    # an alert about a model is for those who may see the model
    named = [each for each in standing if _visible(each.alert.labels, who)]
    runbook = settings().runbook_url
    return page(request, "status.html", alerts=named, found=book.status(store), runbook=runbook)


def _visible(labels: Mapping[str, str], who: Caller) -> bool:
    model = labels.get("model") or labels.get("problem")
    return model is None or who.may("read", model)


def trouble(request: Request, status: int, text: str) -> HTMLResponse:
    """Return the page for an error of ours."""
    return HTMLResponse(page(request, "trouble.html", text=text), status)


def _back(request: Request, model: str) -> RedirectResponse:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/models/{model}", 303)


def page(request: Request, template: str, **values: Any) -> str:
    """Return a page made of a template."""
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


def _rights(who: Caller, model: str) -> dict[str, bool]:
    """Return which buttons somebody may press."""
    return {action: who.may(action, model) for action in ("rollback", "freeze", "unfreeze", "ct")}


def _row(found: Registry, name: str) -> dict[str, Any]:
    """Return how a model stands; of a damaged one, what is wrong with it."""
    try:
        state = found.state(name)
        shown = state.champion or max(state.versions, default=None)
        version = found.version(name, shown) if shown else None
    except DataError as error:  # the others are shown none the less
        return {"name": name, "trouble": str(error)}
    return {"name": name, "state": state, "version": version, "last": found.log(name)[-1]}


def _test_metrics(version: Any) -> dict[str, float | None]:
    return dict(version.manifest.metrics.get("test", {}).get("all", {}))


def _points(versions: list[Any], name: str) -> list[tuple[int, float]]:
    found = ((version.number, _test_metrics(version).get(name)) for version in versions)
    return [(number, value) for number, value in found if value is not None]
