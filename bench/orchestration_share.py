"""How much of a training run's wall time is orchestration: neither a task's own work nor a pipeline step's."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from adin.errors import NotFoundError
from adin.pipelines.client import KfpClient
from adin.stack import control
from adin.stack.airflow_api import AirflowApi

DAG = "train__flights_delay"


def measure() -> list[dict[str, Any]]:
    """Return the share of the newest full training run."""
    airflow = AirflowApi(*control.airflow_login())
    path = f"/api/v2/dags/{DAG}/dagRuns"
    runs = airflow._call("GET", path, params={"state": "success", "order_by": "-start_date", "limit": 20})["dag_runs"]
    for run in runs:
        tasks = {task["task_id"]: task for task in airflow.tasks(DAG, run["dag_run_id"])}
        if tasks["train"]["state"] == "success" and tasks["dataset"]["duration"] > 10:
            return [_row(airflow, run, tasks)]
    raise NotFoundError(f"No full run of {DAG}.", "Run `make demo` first.")


def _row(airflow: AirflowApi, run: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    wall = (_time(run["end_date"]) - _time(run["start_date"])).total_seconds()
    job = airflow.xcom(DAG, run["dag_run_id"], "train", "job")
    steps = [step for step in KfpClient().get(job).tasks if step.started and step.ended]
    pipeline = sum((step.ended - step.started).total_seconds() for step in steps if not step.name.startswith("cond"))
    work = sum(task["duration"] or 0 for name, task in tasks.items() if name != "train") + pipeline
    outcome = airflow.xcom(DAG, run["dag_run_id"], "check")
    note = f"{wall:.0f} s wall, {work:.0f} s work, run {run['dag_run_id']}; equal: the champion is what answers"
    share = round(max(0.0, 1 - work / wall), 4)
    return {
        "name": "orchestration_share",
        "unit": "share",
        "ours": share,
        "stock": None,
        "limit": None,
        "equal": outcome["agree"],
        "note": note,
    }


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
