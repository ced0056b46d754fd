"""Dataset versions: build, list, show, compare."""

from __future__ import annotations

from typing import Annotated

import typer

from adin import datasets
from adin.commands import output
from adin.run_key import content_hash, run_key
from adin.window import Window

app = typer.Typer(no_args_is_help=True)
Problem = Annotated[str, typer.Argument(help="Problem, as in include/problems.")]
Branch = Annotated[str, typer.Option(help="Experiment with a branch of the data of its own; default production.")]


@app.command("build", epilog="Example: adin dataset build flights_delay --start 2013-01-01 --end 2014-01-01")
def build(
    problem: Problem,
    start: Annotated[str, typer.Option(help="First day, UTC.")],
    end: Annotated[str, typer.Option(help="Day after the last, UTC.")],
    branch: Branch = "",
    json: output.Json = False,
) -> None:
    """Build the training set of a window, or find the version with the same inputs."""
    window = Window.parse(start, end)
    key = run_key("cli", content_hash({"problem": problem, "window": str(window)}), "dataset")
    _show(datasets.build(problem, window, key, branch=branch, progress=output.step), json)


@app.command("list", epilog="Example: adin dataset list flights_delay")
def list_(problem: Problem, branch: Branch = "", json: output.Json = False) -> None:
    """List the versions of a problem, newest first."""
    found = datasets.versions(problem, branch=branch)
    if json:
        return output.emit([{"commit": v.commit, **v.manifest} for v in found])
    rows = [(v.commit[:12], v.manifest["created"], v.window, sum(v.rows.values())) for v in found]
    output.table(["commit", "created", "window", "rows"], rows)


@app.command("drop-branch", epilog="Example: adin dataset drop-branch flights_delay merge-request-17")
def drop_branch(
    problem: Problem, branch: Annotated[str, typer.Argument(help="Experiment.")], json: output.Json = False
) -> None:
    """Delete an experiment's branch of the data; production's versions stay."""
    datasets.drop_branch(problem, branch)
    output.emit({"dropped": branch}) if json else output.console.print(f"{branch} is gone.", highlight=False)


@app.command("show", epilog="Example: adin dataset show flights_delay 7a78d0e6")
def show(
    problem: Problem,
    commit: Annotated[str, typer.Argument(help="Commit id, may be shortened; default the newest.")] = "",
    json: output.Json = False,
) -> None:
    """Show what a version was made of."""
    _show(datasets.version(problem, commit or problem), json)


@app.command("diff", epilog="Example: adin dataset diff flights_delay 7a78d0e6 1c0f22ab")
def diff(problem: Problem, old: str, new: str, json: output.Json = False) -> None:
    """Show which inputs and counts differ between two versions."""
    before, after = (datasets.version(problem, commit).manifest for commit in (old, new))
    changed = {
        key: {"old": _brief(before.get(key)), "new": _brief(after.get(key))}
        for key in sorted({*before, *after} - {"files", "created", "run_key"})
        if before.get(key) != after.get(key)
    }
    if json:
        return output.emit(changed)
    output.table(["what", "old", "new"], [(key, value["old"], value["new"]) for key, value in changed.items()])


def _show(found: datasets.DatasetVersion, json: bool) -> None:
    if json:
        return output.emit({"commit": found.commit, **found.manifest})
    manifest = found.manifest
    output.facts(
        {
            "commit": found.commit,
            "problem": found.problem,
            "window": found.window,
            "rows": ", ".join(f"{split} {rows:,}" for split, rows in found.rows.items()),
            "unlabelled, dropped": f"{manifest['dropped_unlabelled']:,}",
            "features": f"{len(manifest['features'])} of service {manifest['service']}",
            "label": f"{manifest['label']['table']}.{manifest['label']['column']}",
            "registry": manifest["registry"][:12],
            "code": manifest["code_version"][:12],
            "run key": manifest["run_key"],
        }
    )
    rows = [
        (table, f"{min(days)} .. {max(days)}", len(days), content_hash(days)[:12])
        for table, days in manifest["sources"].items()
    ]
    output.table(["source", "partitions", "days", "fingerprint"], rows)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{content_hash({'value': value})[:12]} (hash)"
