"""Problems: list them, and check their files."""

from __future__ import annotations

import typer

from adin.commands import output
from adin.problem import names, problem

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog="Example: adin problem list")
def list_(json: output.Json = False) -> None:
    """List the problems and what they predict."""
    found = [problem(name) for name in names()]
    if json:
        return output.emit([spec.model_dump(mode="json") for spec in found])
    output.table(["problem", "task", "owner", "description"], [(p.name, p.task, p.owner, p.description) for p in found])


@app.command("check", epilog="Example: adin problem check flights_delay")
def check(name: str = typer.Argument("", help="One problem; default all."), json: output.Json = False) -> None:
    """Find every mistake in problem files in one pass: file, line, remedy; exit code 1 if there are any."""
    from adin import problem_check

    found = [mistake for each in ([name] if name else names()) for mistake in problem_check.check(each)]
    places = [f"{problem_check.shown(mistake.file)}:{mistake.line}" for mistake in found]
    if json:
        output.emit(
            [
                {"place": place, "mistake": mistake.what, "remedy": mistake.remedy}
                for place, mistake in zip(places, found, strict=True)
            ]
        )
    elif found:
        for place, mistake in zip(places, found, strict=True):
            output.console.print(f"{place}: {mistake.what} {mistake.remedy}", highlight=False, markup=False)
    else:
        output.console.print("No mistakes.")
    if found:
        raise typer.Exit(1)


@app.command("new", epilog="Example: adin problem new bread_sales")
def new(
    name: str = typer.Argument(help="Lower case letters, digits and _."),
    owner: str = typer.Option("", help="Who answers for it; default you."),
    json: output.Json = False,
) -> None:
    """Make a problem that trains at once, on made data: its features, problem.yaml, train.py and a test."""
    from adin import skeleton

    made = [str(path) for path in skeleton.make(name, owner or output.actor())]
    if json:
        return output.emit(made)
    for path in made:
        output.console.print(f"made {path}", highlight=False)
    output.console.print(f"try it: .venv-ml/bin/pytest include/problems/{name}", highlight=False)
    return None
