"""Continuous training: how it stands, stop, resume, and repair after a crash."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from adin.commands import output
from adin.errors import ConfigError
from adin.models.log import Mode
from adin.window import Window

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


@app.command("run", epilog="Example: adin ct run flights_delay --start 2013-01-01 --end 2014-01-01")
def run(
    problem: Problem,
    start: Annotated[str, typer.Option(help="First day to learn from, UTC; default the first there is.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last, UTC; default all up to now.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also if nothing changed since the last training.")] = False,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    json: output.Json = False,
) -> None:
    """Train now, by the DAG and under its rules: what is stopped or frozen stays so."""
    from adin.problem import problem as read_problem
    from adin.stack import control as stack
    from adin.stack.airflow_api import AirflowApi

    dag = f"train__{read_problem(problem).name}"
    airflow = AirflowApi(*stack.airflow_login())
    run = f"by-hand__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    airflow.start(dag, run, training_conf(start, end, force=force))
    page = f"{airflow.url}/dags/{dag}/runs/{run}"
    if not wait:
        return output.emit({"dag": dag, "run": run, "page": page}) if json else output.console.print(page)
    output.step(page)
    airflow.wait(dag, run, progress=output.step)
    skipped = any(task["task_id"] == "gates" and task["state"] == "skipped" for task in airflow.tasks(dag, run))
    told = {"reason": airflow.xcom(dag, run, "gates", "reason")} if skipped else airflow.xcom(dag, run, "check")
    found = {"dag": dag, "run": run, "page": page, "trained": not skipped} | told
    if json:
        return output.emit(found)
    if skipped:
        output.console.print(f"Nothing was trained. {told['reason']}", highlight=False)
    else:
        output.facts(found)


@app.command("try", epilog="Example: adin ct try flights_delay --dataset 7a78d0e6")
def try_(
    problem: Problem,
    dataset: Annotated[str, typer.Option(help="Commit of a dataset version; default the newest.")] = "",
    branch: Annotated[str, typer.Option(help="Experiment whose branch of the data to take it from.")] = "",
    json: output.Json = False,
) -> None:
    """Train as an experiment: a version is registered and compared, but can never be deployed."""
    from adin import experiments
    from adin.problem import problem as read_problem

    found = experiments.run(read_problem(problem), "train_only", dataset, branch=branch, progress=output.step)
    output.emit(found) if json else output.facts(found)


def training_conf(start: str, end: str, *, force: bool) -> dict[str, object]:
    """Return the form of a training run.

    :raises ConfigError: a day is none, the window is empty, or it has no end.
    """
    if start and not end:
        raise ConfigError("Half a window was given.", "Give --end too.")
    form: dict[str, object] = {"force": force}
    if end:
        window = Window.parse(start or "1970-01-01", end)
        form["window_end"] = f"{window.end:%Y-%m-%dT%H:%M:%SZ}"
        if start:
            form["window_start"] = f"{window.start:%Y-%m-%dT%H:%M:%SZ}"
    return form


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
