"""The whole line, run once through the scheduler on the stack of ADIN_HOME; the tests look at what it left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from adin.settings import ROOT
from adin.stack import control, demo_data
from adin.stack.airflow_api import AirflowApi

YEAR = {"window_start": "2013-01-01T00:00:00Z", "window_end": "2014-01-01T00:00:00Z"}


@pytest.fixture(scope="session")
def airflow() -> AirflowApi:
    """The signed-in API of the stack's Airflow."""
    return AirflowApi(*control.airflow_login())


@pytest.fixture(scope="session")
def line(airflow: AirflowApi) -> Iterator[SimpleNamespace]:
    """Raw data, definitions, features of the year, training: run ids and seconds of each."""
    demo_data.load("flights", print)
    for dag, conf in (
        ("apply_features", {"domain": "flights"}),
        ("features__flights", YEAR),
    ):
        airflow.start(dag, "acceptance", conf)
        airflow.wait(dag, "acceptance", timeout=2400, progress=print)
    training = airflow.newest("train__flights_delay")  # new features start it
    airflow.wait("train__flights_delay", training, timeout=2400, progress=print)
    yield SimpleNamespace(run=training, problem="flights_delay")


@pytest.fixture(scope="session")
def run_airflow():
    """Run Airflow's own command line against the stack."""

    def run(*arguments: str) -> str:
        command = [str(ROOT / ".venv" / "bin" / "adin"), "airflow", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
