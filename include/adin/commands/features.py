"""Features: what would change, apply, load online, push, status."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from adin.commands import features_push, output
from adin.window import Window

app = typer.Typer(no_args_is_help=True)
Domain = Annotated[str, typer.Argument(help="Feature domain, a folder of feature_repo.")]


@app.command("plan", epilog="Example: adin features plan flights")
def plan(domain: Domain, json: output.Json = False) -> None:
    """Show what `apply` would change in the registry."""
    from adin.features import store

    found = store.plan(domain)
    output.emit(found.as_dict()) if json else output.console.print(str(found))


@app.command("env", epilog="Example: eval $(adin features env); feast -c feature_repo feature-views list")
def env(json: output.Json = False) -> None:
    """Print the variables which the stock Feast command line needs; they hold the store's password."""
    from adin.features import store

    found = store.environment()
    if json:
        return output.emit(found)
    for name, value in found.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    return None


@app.command("apply", epilog="Example: adin features apply flights")
def apply(domain: Domain, json: output.Json = False) -> None:
    """Bring the registry to what the feature repository says; never deletes."""
    from adin.features import store

    done = store.apply(domain)
    output.emit(done.as_dict()) if json else output.console.print(str(done))


@app.command(
    "materialize", epilog="Example: adin features materialize flights origin_2h --start 2013-12-31 --end 2014-01-01"
)
def materialize(
    domain: Domain,
    view: Annotated[str, typer.Argument(help="Feature view.")],
    start: Annotated[str, typer.Option(help="First day, UTC.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last, UTC.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All published days: for a view just applied.")] = False,
    json: output.Json = False,
) -> None:
    """Write what changed in a window to the online store."""
    from dataclasses import asdict

    from adin.features import online

    if everything == bool(start or end) or bool(start) != bool(end):
        raise typer.BadParameter("Give --start and --end, or --all.")
    window = online.published_window(domain, view) if everything else Window.parse(start, end)
    report = asdict(online.materialize(domain, view, window, tell=lambda progress: output.step(f"{view}: {progress}")))
    output.emit(report) if json else output.facts(report)


@app.command("status", epilog="Example: adin features status flights")
def status(domain: Domain, json: output.Json = False) -> None:
    """Show each table's published partitions, and how far the online store follows.

    `waiting` are published days not yet loaded; `age_s` is the time since the end of the last window loaded.
    """
    from adin.features import online, repo
    from adin.features.offline import offline

    fresh = {each.view: each for each in online.freshness(domain)}
    rows = []
    for view in repo.domain(domain).views:
        parts, follows = offline().partitions(view.table), fresh.get(view.name)
        rows.append(
            {
                "view": view.name,
                "table": view.table,
                "days": len(parts),
                "rows": sum(part.rows for part in parts.values()),
                "newest": max(parts, default=None),
                "online_until": follows and follows.online_until,
                "waiting": follows and follows.waiting_days,
                "age_s": follows and follows.age_seconds and round(follows.age_seconds),
            }
        )
    if json:
        return output.emit(rows)
    output.table(list(rows[0]) if rows else [], [tuple(row.values()) for row in rows])


for _name, _command, _example in (
    ("push", features_push.push, "push origin_2h rows.json"),
    ("push-log", features_push.push_log, "push-log --last 10"),
    ("dead-letters", features_push.dead_letters, "dead-letters"),
    ("replay", features_push.replay, "replay"),
):
    app.command(_name, epilog=f"Example: adin features {_example}")(_command)
