"""Back to an earlier version: the plan, a question, then the pipeline ``rollback``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from adin.commands import output
from adin.control import Plan

#: Seconds the pipeline may take before the command gives up waiting.
_TIMEOUT = 300


def rollback(
    problem: Annotated[str, typer.Argument(help="Problem, as in include/problems.")],
    to: Annotated[str, typer.Option(help="previous, a version, or the champion of a time (ISO 8601, UTC).")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would change, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "rolled back by hand",
    json: output.Json = False,
) -> None:
    """Put an earlier version under load and pin it; training goes on, but deploys nothing.

    Example: adin model rollback flights_delay --to previous --reason "late share jumped after 02:00"
    """
    from adin import control

    found = control.plan(problem, to)
    if plan and json:
        return output.emit(found.as_dict())
    if not json:
        _show(found)
    if plan:
        return None
    found.check()
    if not yes:
        typer.confirm("Roll back?", abort=True, err=json)
    _run(found, reason, json)


def _run(found: Plan, reason: str, json: bool) -> None:
    from adin import control
    from adin.pipelines.client import KfpClient

    began = time.monotonic()
    # the version, not what was asked: the log may have gone on since the plan was read
    run = control.submit(found.model, str(found.version), reason=reason, by=output.actor())
    KfpClient().wait(run, timeout=_TIMEOUT, poll=0.2, on_progress=lambda run: output.step(f"{run.name} {run.state}"))
    seconds = time.monotonic() - began
    stands = control.status(found.model)
    if json:
        return output.emit({"run": run, "seconds": round(seconds, 1), **stands.as_dict()})
    output.console.print(
        f"✓ version {stands.answers} answers   ✓ {stands.mode}   ✓ frozen   run {run}   {seconds:.1f} s"
    )
    output.console.print(f"Undo with: adin model unfreeze {found.model}")
    output.console.print(f"Resume training with: adin ct resume {found.model}")


def _show(found: Plan) -> None:
    features = f"+{len(found.features_added)} -{len(found.features_removed)}" if _differ(found) else "the same"
    runs = found.in_flight
    output.facts(
        {
            "model": f"{found.model}   {found.champion} -> {found.version}",
            "was champion": "; ".join(found.reigned) or "never",
            "dataset": " -> ".join((commit or "none")[:12] for commit in found.dataset),
            "features": f"{features}   {' '.join(['', *found.features_added])}".strip(),
            "training": f"{found.mode} -> train_only",
            "in flight": "unknown: Kubeflow Pipelines does not answer"
            if runs is None
            else f"{len(runs)} runs: will finish, will not deploy",
            "pin": f"frozen at {found.version}",
            "loads": "no: " + " ".join(found.obstacles) if found.obstacles else "yes, and its features are online",
        }
    )


def _differ(found: Plan) -> bool:
    return bool(found.features_added or found.features_removed)
