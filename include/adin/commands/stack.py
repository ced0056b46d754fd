"""The local servers: start, stop, look."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from adin.commands import output
from adin.stack import control, layout

app = typer.Typer(no_args_is_help=True)
Services = Annotated[list[str] | None, typer.Argument(help="Services; default all.")]


@app.command("up", epilog="Example: adin stack up")
def up(
    services: Services = None,
    monitoring: Annotated[
        bool | None, typer.Option(help="With Prometheus and Alertmanager, or no longer; kept.", show_default=False)
    ] = None,
) -> None:
    """Start the stack, or some services and what they need, and wait until all are well."""
    layout.monitored(monitoring)
    control.up(services or [], output.step)
    output.console.print(control.addresses(), highlight=False)


@app.command("down", epilog="Example: adin stack down")
def down() -> None:
    """Stop every process of the stack; what they stored stays."""
    control.down()


@app.command("restart", epilog="Example: adin stack restart redis")
def restart(services: Services = None) -> None:
    """Stop some services, default all that run, and start them again."""
    control.restart(services or [], output.step)


@app.command("status", epilog="Example: adin stack status --json")
def status(json: output.Json = False) -> None:
    """Show how each service is; exit code 1 when one that runs is not well."""
    found = control.status()
    if json:
        output.emit([asdict(health) for health in found])
    else:
        rows = [(h.name, h.state, h.pid, f"{h.uptime} s", h.restarts, _well(h), h.problem) for h in found]
        output.table(["service", "state", "pid", "up", "restarts", "answers in", "problem"], rows)
    if any(health.pid and health.latency is None for health in found):
        raise typer.Exit(1)


@app.command("logs", epilog="Example: adin stack logs lakefs -f")
def logs(
    service: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines from the end.")] = 50,
) -> None:
    """Show the end of a service's log."""
    path = control.log_file(service)
    arguments = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)]
    os.execvp(arguments[0], arguments)  # noqa: S606 - no shell, fixed program


def _well(health: control.Health) -> str:
    return f"{health.latency * 1000:.0f} ms" if health.latency is not None else ""
