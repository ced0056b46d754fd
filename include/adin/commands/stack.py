"""The local servers: start, stop, look."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import Annotated, Any

import typer

from adin.commands import output
from adin.stack import checks, control, layout

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
    found, more = control.status(), _facts()
    seen = {each["name"]: each["last_success"] for each in more.get("services", [])}
    if json:
        output.emit([asdict(health) | {"last_success": seen.get(health.name, "")} for health in found])
    else:
        rows = [
            (h.name, h.state, h.pid, f"{h.uptime} s", h.restarts, _well(h), seen.get(h.name, ""), h.problem)
            for h in found
        ]
        output.table(["service", "state", "pid", "up", "restarts", "answers in", "last well", "problem"], rows)
        output.facts(_told(more))
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


def _facts() -> dict[str, Any]:
    """Return what the alert service knows; nothing while it does not run."""
    try:
        return dict(checks.get(f"http://{layout.HOST}:{layout.port('alerts')}/status"))
    except (OSError, ValueError):
        return {}


def _told(more: dict[str, Any]) -> dict[str, str]:
    disk = shutil.disk_usage(layout.home())
    lags = {each["view"]: each["lag"] for each in more.get("views", []) if each["lag"] is not None}
    told = {"disk left": f"{disk.free / 1e9:.0f} GB of {disk.total / 1e9:.0f}"}
    if "queue" in more:
        told["queue"] = ", ".join(f"{count} {name}" for name, count in more["queue"].items())
    if lags:
        oldest = max(lags, key=lambda view: lags[view])
        told["freshness"] = f"{len(lags)} views online; {oldest} is {lags[oldest] / 3600:.1f} h behind"
    return told


def _well(health: control.Health) -> str:
    return f"{health.latency * 1000:.0f} ms" if health.latency is not None else ""
