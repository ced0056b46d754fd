"""Problems: list them, and check their files."""

from __future__ import annotations

import typer

from adin.commands import output
from adin.errors import AdinError, ConfigError
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
    """Find the mistakes in problem files; exit code 1 if there are any."""
    from adin.promotion import gate

    mistakes: dict[str, str] = {}
    for each in [name] if name else names():
        try:
            spec = problem(each)
            gate.validate(spec.promotion)
            if not spec.code.is_file():
                raise ConfigError(f"{spec.code} is missing.", "It must hold fit(train, label, params).")
        except AdinError as error:
            mistakes[each] = str(error)
    if json:
        output.emit(mistakes)
    else:
        output.table(["problem", "mistake"], mistakes.items()) if mistakes else output.console.print("No mistakes.")
    if mistakes:
        raise typer.Exit(1)
