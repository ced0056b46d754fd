"""Ask the model under load."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer

from adin.commands import output
from adin.errors import ConfigError
from adin.problem import problem as read_problem


def predict(
    problem: Annotated[str, typer.Argument(help="Problem, as in include/problems.")],
    values: Annotated[list[str] | None, typer.Argument(help="Entity keys and request values: key=value ...")] = None,
    example: Annotated[bool, typer.Option("--example", help="Start from the example in problem.yaml.")] = False,
    json: output.Json = False,
) -> None:
    """Ask the model under load; says which version answers.

    Example: adin predict flights_delay --example tailnum=N14228
    """
    from adin.serving.client import ServingClient

    spec = read_problem(problem)
    instance = dict(spec.example) if example else {}
    for pair in values or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{pair!r} is no key=value.", f"Known keys: {', '.join(spec.example)}.")
        instance[name] = _value(value, spec.example.get(name))
    if not instance:
        raise ConfigError("Nothing to predict for.", "Give key=value pairs or --example.")
    answer = ServingClient().predict(problem, [instance])
    if json:
        return output.emit(answer)
    output.facts({key: value if not isinstance(value, dict) else jsonlib.dumps(value) for key, value in answer.items()})


def _value(text: str, example: Any) -> Any:
    """Read a value typed on the command line as the type the example has."""
    if isinstance(example, str) or example is None:
        return text
    try:
        return jsonlib.loads(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a {type(example).__name__} such as {example!r}.") from None
