"""How much of a training run's wall time is orchestration: neither a task's own work nor a pipeline step's.

Two runs over the same dataset, one whose task holds its worker while the pipeline goes, one that waits deferred.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

from adin.datasets import versions
from adin.errors import NotFoundError
from adin.pipelines.client import KfpClient
from adin.stack import control
from adin.stack.airflow_api import AirflowApi

PROBLEM = "flights_delay"
DAG = f"train__{PROBLEM}"
_DEFERRABLE = "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"
_SCHEDULER = ("airflow-scheduler",)


def measure() -> list[dict[str, Any]]:
    """Return the share of a run that waits deferred and of one that holds its worker."""
    held = _run(deferrable=False)
    deferred = _run(deferrable=True)
    return [
        {"name": f"orchestration_share, {name}", "unit": "share", "stock": None, "limit": None, **each}
        for name, each in (("worker held", held), ("deferred", deferred))
    ]


def _run(*, deferrable: bool) -> dict[str, Any]:
    known = versions(PROBLEM)
    if not known:
        raise NotFoundError(f"No dataset of {PROBLEM}.", "Run `make demo` first.")
    span = known[0].window
    conf = {"window_start": f"{span.start:%Y-%m-%dT%H:%M:%SZ}", "window_end": f"{span.end:%Y-%m-%dT%H:%M:%SZ}"}
    airflow = AirflowApi(*control.airflow_login())
    run = f"bench__{uuid4().hex[:8]}"
    with _scheduler(deferrable=deferrable):
        airflow.start(DAG, run, conf | {"force": True})
        airflow.wait(DAG, run)
        return _share(airflow, airflow.run(DAG, run))


@contextmanager
def _scheduler(*, deferrable: bool) -> Iterator[None]:
    """Let the scheduler, whose children the tasks are, run under another default."""
    os.environ[_DEFERRABLE] = str(deferrable)
    try:
        control.restart(_SCHEDULER)
        yield
    finally:
        del os.environ[_DEFERRABLE]
        control.restart(_SCHEDULER)


def _share(airflow: AirflowApi, run: dict[str, Any]) -> dict[str, Any]:
    tasks = {task["task_id"]: task for task in airflow.tasks(DAG, run["dag_run_id"])}
    wall = (_time(run["end_date"]) - _time(run["start_date"])).total_seconds()
    job = airflow.xcom(DAG, run["dag_run_id"], "train", "job")
    steps = [step for step in KfpClient().get(job).tasks if step.started and step.ended]
    pipeline = sum((step.ended - step.started).total_seconds() for step in steps if not step.name.startswith("cond"))
    work = sum(task["duration"] or 0 for name, task in tasks.items() if name != "train") + pipeline
    outcome = airflow.xcom(DAG, run["dag_run_id"], "check")
    note = f"{wall:.0f} s wall, {work:.0f} s work; equal: the champion is what answers"
    return {"ours": round(max(0.0, 1 - work / wall), 4), "equal": outcome["agree"], "note": note}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
