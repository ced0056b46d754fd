"""Push rows of a file into the online store, and look after what was pushed."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from adin.commands import output

#: Refusals shown; the file has all refused rows.
_SHOWN = 20


def push(
    view: Annotated[str, typer.Argument(help="Feature view.")],
    file: Annotated[Path, typer.Argument(help="Rows: .json (a list of objects), .parquet or .csv.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="While Redis does not answer, let the service keep the rows for later.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Write rows of your own to the online store through the push API; exit code 1 if some are refused.

    The refused ones go to FILE.refused.json: mend them and push that.
    """
    from adin.features.push.client import PushClient, source

    rows = source(file)
    report = PushClient().push(view, rows, keep=keep, progress=output.step)
    places = report.refused_rows
    beside = file.with_suffix(".refused.json")
    if places:
        beside.write_text(jsonlib.dumps(rows.rows(places), indent=1, default=_written))
    if json:
        output.emit({**asdict(report), "refused_file": str(beside) if places else None})
    else:
        waits = f", {report.waiting} kept until Redis answers" if report.waiting else ""
        same = f", {report.unchanged} changed nothing" if report.unchanged else ""
        say = output.console.print
        say(f"{len(places)} of {report.rows} rows refused, {report.written} written{same}{waits}", highlight=False)
        for each in report.refused[:_SHOWN]:
            typer.echo(f"  row {each['row']:<6} {each['field']:<16} {each['reason']}")
        if len(report.refused) > _SHOWN:
            typer.echo(f"  ... and {len(report.refused) - _SHOWN} more")
        if places:
            typer.echo(f"refused rows: {beside}")
    if places:
        raise typer.Exit(1)


def push_log(
    last: Annotated[int, typer.Option(help="So many.")] = 50,
    json: output.Json = False,
) -> None:
    """Show the audit log of the push API: who pushed what, newest first."""
    from adin.features.push.state import State

    _show(State().audit(last), json)


def dead_letters(
    every: Annotated[bool, typer.Option("--all", help="Also those that were written since.")] = False,
    json: output.Json = False,
) -> None:
    """List rows the push API accepted and could not write yet."""
    from adin.features.push.state import State

    _show([asdict(each) for each in State().dead_letters(settled=every)], json)


def replay(
    letter: Annotated[str, typer.Argument(help="Dead letter; default all that wait.")] = "",
    json: output.Json = False,
) -> None:
    """Write rows that wait, unless newer ones are stored by now."""
    from adin.features.push.pusher import Pusher
    from adin.features.push.state import State

    state = State()
    pusher = Pusher(state)
    names = [letter] if letter else [each.id for each in state.dead_letters()]
    done = [{"dead_letter": name, "outcome": pusher.replay(name, output.actor())} for name in names]
    _show(done, json)


def _show(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        return output.emit(rows)
    return output.table(list(rows[0]) if rows else ["nothing"], [tuple(row.values()) for row in rows])


def _written(value: Any) -> str:
    """Return a value of a file in the form in which JSON rows have it."""
    if isinstance(value, bytes):
        from base64 import b64encode

        return b64encode(value).decode()
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
