"""Features: what would change, apply, load online, push, status."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from adin.commands import features_push, output
from adin.window import Window

app = typer.Typer(no_args_is_help=True)
states = typer.Typer(no_args_is_help=True, help="Earlier states of Feast's registry, where it lies in S3.")
app.add_typer(states, name="registry")
Domain = Annotated[str, typer.Argument(help="Feature domain, a folder of feature_repo.")]


@app.command("plan", epilog="Example: adin features plan flights")
def plan(
    domain: Domain,
    delete: Annotated[bool, typer.Option("--delete", help="As `apply --delete` would.")] = False,
    json: output.Json = False,
) -> None:
    """Show what `apply` would change in the registry: added, changed, removed, and what that takes away."""
    from adin.features import store

    found = store.plan(domain, delete=delete)
    output.emit(found.as_dict()) if json else output.console.print(str(found), markup=False, highlight=False)


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


@app.command("apply", epilog="Example: adin features apply flights --load")
def apply(
    domain: Domain,
    approve: Annotated[bool, typer.Option("--approve", help="Take away what the plan calls destructive.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Also remove what no domain has any more.")] = False,
    load: Annotated[bool, typer.Option("--load", help="Then load new views and features online.")] = False,
    json: output.Json = False,
) -> None:
    """Bring the registry to what the feature repository says.

    What takes features away is asked for, or needs --approve; what a model under load or a problem needs stays.
    """
    from dataclasses import asdict

    from adin.features import online, store

    if sys.stdin.isatty() and not (approve or json):
        planned = store.plan(domain, delete=delete)
        if planned.destructive and not planned.needed:
            output.console.print(str(planned), markup=False, highlight=False)
            typer.confirm("Take this away?", abort=True)
            approve = True
    done = store.apply(domain, delete=delete, approve=approve)
    new = done.to_load if load else []
    loaded = [asdict(online.materialize(domain, view, online.published_window(domain, view))) for view in new]
    if json:
        return output.emit(done.as_dict() | {"loaded": loaded})
    output.console.print(str(done), markup=False, highlight=False)
    for report in loaded:
        output.facts(report)
    return None


@app.command("materialize", epilog="Example: adin features materialize flights origin_2h")
def materialize(
    domain: Domain,
    view: Annotated[str, typer.Argument(help="Feature view.")],
    start: Annotated[str, typer.Option(help="First day, UTC.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last, UTC.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All published days: for a view just applied.")] = False,
    json: output.Json = False,
) -> None:
    """Write what changed in a window, or in all published days, to the online store."""
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


@app.command("skew", epilog="Example: adin features skew flights_delay --limit 0.01")
def skew(
    name: Annotated[str, typer.Argument(help="Problem, or feature service.")],
    start: Annotated[str, typer.Option(help="First day to draw entities from, UTC; default the last published.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last, UTC.")] = "",
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="Entities a view.")] = 1000,
    limit: Annotated[float, typer.Option(min=0, max=1, help="Greatest share that passes.")] = 0.01,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw the same entities again.")] = None,
    json: output.Json = False,
) -> None:
    """Compare what is online with what training would see; exit code 1 if a share is over the limit.

    Entities are drawn from the last published day, or from the days of a window. Per feature, the shares of them whose
    values differ (numbers: by more than 1e-6 of the value), are only offline (missing), or only online (extra).
    """
    from adin.features import skew as checking

    if bool(start) != bool(end):
        raise typer.BadParameter("Give --start and --end, or neither.")
    window = Window.parse(start, end) if start else None
    report = checking.check(checking.find(name), window=window, sample=sample, seed=seed)
    if json:
        output.emit(report.as_dict() | {"limit": limit, "worst": report.worst})
    else:
        rows = [
            (each.feature, each.entities, *(f"{share:.2%}" for share in (each.mismatch, each.missing, each.extra)))
            for each in report.features
        ]
        output.table(["feature", "entities", "mismatch", "missing", "extra"], rows)
        for each in report.features:
            if each.example:
                output.console.print(f"{each.feature}: e.g. {each.example}", markup=False, highlight=False)
        for view, days in report.days.items():
            drawn = days[0] if len(days) == 1 else f"{len(days)} days, {days[0]} .. {days[-1]}"
            output.console.print(f"{view}: entities of {drawn}", highlight=False)
        output.console.print(f"limit {limit:.2%}, tolerance {report.tolerance}, seed {report.seed}")
    if report.worst > limit:
        raise typer.Exit(1)


@states.command("list", epilog="Example: adin features registry list")
def list_states(json: output.Json = False) -> None:
    """Show the states of the registry that can be brought back."""
    from dataclasses import asdict

    from adin.features import store

    found = store.bucket_registry().states()
    if json:
        return output.emit([asdict(state) for state in found])
    rows = [(each.number, f"{each.written:%Y-%m-%d %H:%M:%S}", each.bytes, "*" * each.current) for each in found]
    return output.table(["state", "written or replaced (UTC)", "bytes", "in force"], rows)


@states.command("restore", epilog="Example: adin features registry restore 41")
def restore(
    number: Annotated[int, typer.Argument(help="State, as `list` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: output.Json = False,
) -> None:
    """Put an earlier state of the registry in force again; what is in force is kept and can be brought back too."""
    from adin.features import store

    kept = store.bucket_registry()
    if not yes:
        typer.confirm(
            f"Everything applied and loaded since state {number} is forgotten. Restore?", abort=True, err=json
        )
    now = kept.restore(number)
    output.emit({"restored": number, "state": now}) if json else output.console.print(
        f"✓ state {number} is in force again, as state {now}"
    )


for _name, _command, _example in (
    ("push", features_push.push, "push origin_2h rows.json"),
    ("push-log", features_push.push_log, "push-log --last 10"),
    ("dead-letters", features_push.dead_letters, "dead-letters"),
    ("replay", features_push.replay, "replay"),
):
    app.command(_name, epilog=f"Example: adin features {_example}")(_command)
