"""Drift: check a problem's newest data, alarms that go on, and reports before and after an event."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from adin.commands import output
from adin.errors import ConfigError
from adin.problem import problem as read_problem

app = typer.Typer(no_args_is_help=True)
Problem = Annotated[str, typer.Argument(help="Problem, as in include/problems.")]
Out = Annotated[Path | None, typer.Option(help="Write the report here, as HTML.")]


@app.command("check", epilog="Example: adin drift check flights_delay --window 7d")
def check(
    problem: Problem,
    window: Annotated[str, typer.Option(help="Days counted together, such as 1w; default as in problem.yaml.")] = "",
    out: Out = None,
    json: output.Json = False,
) -> None:
    """Compare the newest dataset version with what the champion learned from, and keep a report.

    With --window the alarms of the problem become those of that window, until the next check.
    """
    from adin.drift import report, service

    policy = service.policy(read_problem(problem), window)
    output.step("counting what is new, comparing")
    found = service.check(problem, policy=policy)
    if out:
        out.write_text(report.page(found.result))
    if json:
        return output.emit(found.facts() | {"findings": found.result["findings"]})
    active = [each for each in found.result["findings"] if each["active"]]
    output.table(
        ["kind", "of", "check", "value", "limit", "since"],
        [
            (each["kind"], each["subject"], each["check"], _newest(each), f"{each['limit']:.4g}", each["since"])
            for each in active
        ],
        title=f"{problem}: {len(active)} of {len(found.result['findings'])} checks raise an alarm",
    )
    output.console.print(f"Report: {found.result['report']}" + (f", {out}" if out else ""), highlight=False)


@app.command("status", epilog="Example: adin drift status flights_delay")
def status(problem: Problem, json: output.Json = False) -> None:
    """Show the alarms that go on, and the newest checks."""
    from dataclasses import asdict

    from adin import drift

    alarms, checks = drift.status(problem), drift.history(problem, 10)
    if json:
        return output.emit({"alarms": [asdict(alarm) for alarm in alarms], "checks": checks})
    output.table(
        ["kind", "of", "check", "value", "limit", "since"],
        [(a.kind, a.subject, a.check, f"{a.value:.4g}", f"{a.limit:.4g}", a.since) for a in alarms],
        title=f"{problem}: {len(alarms)} alarms go on",
    )
    columns = ["checked", "id", "commit", "until", "active"]
    output.table(columns, [[str(each[column])[:19] for column in columns] for each in checks])


@app.command("realised", epilog="Example: adin drift realised flights_delay --days 14")
def realised(
    problem: Problem,
    days: Annotated[int, typer.Option(min=1, help="Days before the end of the newest dataset.")] = 30,
    json: output.Json = False,
) -> None:
    """Show what the answers really given cost, by day and version; `serving.watch.log` must have kept them."""
    from adin.drift import realised as served

    found = served.losses(problem, days=days)
    if json:
        return output.emit(found)
    columns = ["day", "version", "rows", "metric", "loss"]
    output.table(columns, [[_number(v) if isinstance(v, float) else v for v in each.values()] for each in found])


@app.command("report", epilog="Example: adin drift report flights_delay --from 2013-11-01 --to 2013-12-01 --out a.html")
def report(
    problem: Problem,
    from_: Annotated[str, typer.Option("--from", help="First day of the event, UTC.")],
    to: Annotated[str, typer.Option("--to", help="Day after its last, UTC.")],
    out: Out = None,
    json: output.Json = False,
) -> None:
    """Compare the days of an event with as many days before it, and say what changed."""
    from adin import drift
    from adin.drift import report as pages

    first, after = _day(from_, "--from"), _day(to, "--to")
    if first >= after:
        raise ConfigError(f"The event from {first} to before {after} is empty.", "--to must lie after --from.")
    read_problem(problem)
    found = drift.between(problem, first, after)
    if out:
        out.write_text(pages.event_page(found))
        output.step(f"wrote {out}")
    if json:
        return output.emit(found)
    rows = [
        (
            each["feature"],
            _number(each["psi"]),
            _number(each["jensen_shannon"]),
            _number(each.get("kolmogorov_smirnov")),
            _number(each.get("wasserstein")),
            " -> ".join(_number(share) for share in each["nulls"]),
            _number(each["strange"]),
        )
        for each in found["features"]
    ]
    columns = ["feature", "PSI", "Jensen-Shannon", "KS", "Wasserstein", "null", "new or out of range"]
    title = f"{' to before '.join(found['after'])} compared with {' to before '.join(found['before'])}"
    output.table(columns, rows, title=title)


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is no day.", "Write it as 2013-11-01.") from None


def _newest(finding: dict[str, list[float | None]]) -> str:
    return _number(next((value for value in reversed(finding["values"]) if value is not None), None))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
