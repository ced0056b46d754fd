"""Drift as pages and JSON: how each problem stands, what changed since when, and the reports."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from adin.airflow.web import pages, stores
from adin.airflow.web.access import CallerDep
from adin.airflow.web.pages import readable
from adin.errors import NotFoundError

api = APIRouter(prefix="/api/v1", tags=["adin"])
router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
KINDS = ("data", "label", "concept", "quality")
Check = Annotated[str, Query(max_length=64, pattern="^[a-z0-9]*$")]


@api.get("/drift/{model}", dependencies=[readable])
def state(model: str, check: Check = "") -> dict[str, Any]:
    """Return the alarms of a problem that go on, its checks, and what one check, by default the newest, found."""
    from dataclasses import asdict

    from adin import drift

    stores.use_drift()
    return {
        "problem": model,
        "alarms": [asdict(alarm) for alarm in drift.status(model)],
        "checks": drift.history(model),
        "result": drift.result(stores.models(), model, check),
    }


@router.get("/drift")
def problems(request: Request, who: CallerDep) -> str:
    """Show how each problem a user may see stands."""
    from adin import drift, problem

    stores.use_drift()
    rows = []
    for name in problem.names():
        if who.may("read", name):
            newest = drift.history(name, 1)
            alarms = drift.active(name)
            counts = {kind: sum(alarm.kind == kind for alarm in alarms) for kind in KINDS}
            since = min((alarm.since for alarm in alarms), default=None)
            rows.append({"name": name, "counts": counts, "since": since, "newest": newest[0] if newest else None})
    return pages.page(request, "drifts.html", rows=rows, kinds=KINDS)


@router.get("/drift/{model}", dependencies=[readable])
def one(request: Request, model: str) -> str:
    """Show one problem: its alarms, a timeline for each check, and its reports."""
    from adin import drift
    from adin.drift import report

    stores.use_drift()
    result = drift.result(stores.models(), model)
    findings = sorted((result or {}).get("findings", []), key=lambda each: not each["active"])
    return pages.page(
        request,
        "drift.html",
        name=model,
        alarms=drift.status(model),
        checks=drift.history(model, 30),
        result=result,
        names=report.CHECKS,
        shown=[(each, report.timeline(each)) for each in findings],
    )


@router.get("/drift/{model}/report", dependencies=[readable])
def kept(model: str, check: Check = "") -> HTMLResponse:
    """Show the report of a check, by default of the newest."""
    from adin import drift
    from adin.drift import engine

    stores.use_drift()
    check = check or next((each["id"] for each in drift.history(model, 1)), "")
    if not check:
        raise NotFoundError(f"{model} was not checked yet.", f"DAG drift__{model} does it.")
    try:
        content = engine.kept_report(stores.models().bucket, model, check)
    except NotFoundError:
        raise NotFoundError(f"No report {check} of {model}.", f"See the checks of {model} on its page.") from None
    return HTMLResponse(content, headers={"Content-Security-Policy": pages.REPORT_POLICY})
