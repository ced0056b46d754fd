"""Continuous training: how it stands, stop, resume, and repair after a crash."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from adin.commands import output
from adin.models.log import Mode

app = typer.Typer(no_args_is_help=True)
Problem = Annotated[str, typer.Argument(help="Problem, as in include/problems.")]
Reason = Annotated[str, typer.Option(help="Why; stands in the log.")]


class InFlight(StrEnum):
    """What happens to a training run that goes."""

    finish = "finish"
    cancel = "cancel"


@app.command("status", epilog="Example: adin ct status flights_delay")
def status(problem: Problem, json: output.Json = False) -> None:
    """Show mode, pin, champion, what answers, and the runs in flight."""
    from adin import control

    found = control.status(problem).as_dict()
    if json:
        return output.emit(found)
    runs = found["in_flight"]
    found["in_flight"] = "Kubeflow Pipelines does not answer" if runs is None else ", ".join(runs) or "none"
    output.facts(found)


@app.command("stop", epilog="Example: adin ct stop flights_delay --in-flight cancel --reason 'bad source data'")
def stop(
    problem: Problem,
    in_flight: Annotated[
        InFlight, typer.Option(help="Runs that go: finish (register their model, deploy nothing) or cancel.")
    ] = InFlight.finish,
    train_only: Annotated[bool, typer.Option("--train-only", help="Go on training; only deploy no more.")] = False,
    reason: Reason = "stopped by hand",
    json: output.Json = False,
) -> None:
    """Stop continuous training; nothing is deployed from now on, by no run."""
    from adin import control

    mode: Mode = "train_only" if train_only else "stopped"
    runs = control.stop(problem, actor=output.actor(), reason=reason, mode=mode, running=in_flight.value)
    told = "cancelled" if in_flight is InFlight.cancel else "will finish, will not deploy"
    if json:
        return output.emit({"model": problem, "mode": mode, "in_flight": runs, "these": told if runs else None})
    output.console.print(f"{problem}: {mode}; {len(runs)} runs in flight" + (f", {told}." if runs else "."))
    output.console.print(f"Resume with: adin ct resume {problem}")


@app.command("resume", epilog="Example: adin ct resume flights_delay --reason 'source mended'")
def resume(problem: Problem, reason: Reason = "resumed by hand", json: output.Json = False) -> None:
    """Let continuous training deploy again; what was due meanwhile is not caught up."""
    from adin import control

    state = control.resume(problem, actor=output.actor(), reason=reason)
    if json:
        return output.emit({"model": problem, "mode": state.mode, "frozen": state.frozen})
    output.console.print(f"{problem}: {state.mode}.")
    if state.frozen:
        output.console.print(f"It is frozen: nothing is promoted until `adin model unfreeze {problem}`.")


@app.command("reconcile", epilog="Example: adin ct reconcile flights_delay")
def reconcile(problem: Problem, json: output.Json = False) -> None:
    """Repair what a killed run left: end what was begun, put the log's champion under load."""
    from adin import control

    done = control.reconcile(problem, actor=output.actor())
    if json:
        return output.emit(done)
    for line in done or ["Log and serving agree; nothing was begun and left."]:
        output.console.print(line, highlight=False)
