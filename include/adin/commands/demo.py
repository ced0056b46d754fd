"""The main line in one command: raw data, features, training, the model under load."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from adin.commands import output
from adin.errors import ConfigError, NotFoundError
from adin.problem import Problem
from adin.problem import problem as read_problem
from adin.window import Window


def demo(problem: Annotated[str, typer.Argument(help="Problem to run end to end.")] = "flights_delay") -> None:
    """Start the stack, load the demo's raw data, build features, train, promote, and ask the new model.

    Takes up where it was interrupted; a second run changes nothing. Example: adin demo
    """
    from adin.stack import control, demo_data
    from adin.stack.airflow_api import AirflowApi

    spec = read_problem(problem)
    span = _span(spec)
    began = time.monotonic()
    control.up(progress=output.step)
    output.step(f"raw data of {spec.domain} into HDFS")
    demo_data.load(spec.domain, progress=output.step)
    airflow = AirflowApi(*control.airflow_login())
    run = f"demo__{span.start:%Y-%m-%d}_{span.end:%Y-%m-%d}"
    whole = {"window_start": f"{span.start:%Y-%m-%dT%H:%M:%SZ}", "window_end": f"{span.end:%Y-%m-%dT%H:%M:%SZ}"}
    for dag, conf in (("apply_features", {"domain": spec.domain}), (f"features__{spec.domain}", whole)):
        airflow.start(dag, run, conf)
        airflow.wait(dag, run, progress=output.step)
    training = f"train__{spec.name}"
    if not spec.run.on_data:
        airflow.start(training, run, whole)
    airflow.wait(training, airflow.newest(training), progress=output.step)
    _summary(spec, time.monotonic() - began)
    output.console.print(control.addresses())


def _span(spec: Problem) -> Window:
    """Return all days the source of a problem has had.

    :raises ConfigError: the domain does not say when its raw data arrives.
    """
    from adin.features import repo

    found = repo.domain(spec.domain)
    if found.arrives is None:
        raise ConfigError(f"{found.path / 'raw.yaml'} has no `arrives`.", "Write `arrives: {start: YYYY-MM-DD}`.")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(found.arrives.start, found.arrives.end or today)


def _summary(spec: Problem, seconds: float) -> None:
    from adin import datasets
    from adin.models import registry
    from adin.serving.client import ServingClient

    models = registry()
    state = models.state(spec.name)
    if not state.versions:
        raise NotFoundError(
            f"No version of {spec.name} was trained.", f"See the runs of train__{spec.name} in Airflow."
        )
    newest = max(state.versions)
    shown = state.champion or newest
    manifest = models.version(spec.name, shown).manifest
    served = ServingClient().status(spec.name)
    facts = {
        "problem": spec.name,
        "time": f"{seconds:.0f} s",
        "dataset": manifest.dataset,
        "rows": datasets.version(spec.name, manifest.dataset).rows,
        "model version": f"{shown} ({state.versions[shown]})",
        "test metrics": {name: value and round(value, 4) for name, value in manifest.metrics["test"]["all"].items()},
        "under load": served["version"],
        "ask it": f"adin predict {spec.name} --example",
    }
    output.facts(facts)
    if state.champion is None:
        raise NotFoundError(f"No version of {spec.name} was promoted.", f"See `adin model show {spec.name} {newest}`.")
