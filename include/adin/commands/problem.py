"""Problems: list them, check their files, tune their models."""

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


@app.command("tune", epilog="Example: adin problem tune parking_occupancy --dataset 7a78d0e6")
def tune(
    name: str = typer.Argument(help="Problem whose problem.yaml has tune."),
    dataset: str = typer.Option("", help="Commit of a dataset version; default the newest."),
    branch: str = typer.Option("", help="Experiment whose branch of the data to take it from; default production."),
    json: output.Json = False,
) -> None:
    """Search for the best hyperparameters and register their model; an experiment: nothing is deployed."""
    from adin import experiments
    from adin.tuning.katib import tuning_of

    spec = problem(name)
    tuning_of(spec)
    found = experiments.run(spec, "tune", dataset, branch=branch, progress=output.step)
    if json:
        return output.emit(found)
    output.facts({key: value for key, value in found.items() if key != "tuning"})
    tuned = found["tuning"]
    output.console.print(f"{tuned['objective']['metric']} {tuned['value']:.6g} on the validation split.")
    output.console.print(f"To train so from now on, write into problem.yaml: train.params: {tuned['parameters']}")
    return None


@app.command("katib", epilog="Example: adin problem katib parking_occupancy --dataset 7a78d0e6 | kubectl apply -f -")
def katib(
    name: str = typer.Argument(help="Problem whose problem.yaml has tune."),
    dataset: str = typer.Option("", help="Commit of a dataset version; default the newest of production."),
    namespace: str = typer.Option("kubeflow", help="Namespace of the Experiment."),
    json: output.Json = False,
) -> None:
    """Print the same search as an Experiment of Katib."""
    import yaml

    from adin.tuning.katib import experiment, tuning_of

    spec = problem(name)
    tuning_of(spec)
    if not dataset:
        from adin import datasets

        dataset = datasets.newest(name).commit
    document = experiment(spec, dataset, namespace=namespace)
    output.emit(document) if json else typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
