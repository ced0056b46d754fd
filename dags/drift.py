"""Drift: one DAG for each problem in include/problems, daily, and after each dataset version and change of champion."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from adin.airflow import assets
from adin.airflow.broken import broken
from adin.airflow.domain import Domain, domain
from adin.airflow.hooks import activate
from adin.airflow.links import ReportLink
from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.problem import Problem, names, problem
from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronDataIntervalTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException


def schedule_of(spec: Problem, source: Domain) -> Any:
    """Return when drift is looked for: at each dataset version and new champion, and daily while the source goes on."""
    data = AssetAny(assets.dataset(spec.name), assets.model(spec.name))
    if source.end:
        return data
    return AssetOrTimeSchedule(timetable=CronDataIntervalTimetable("30 5 * * *", timezone="UTC"), assets=data)


def make(spec: Problem, source: Domain) -> None:
    """Declare ``drift__<problem>``."""

    @dag(
        dag_id=f"drift__{spec.name}",
        schedule=schedule_of(spec, source),
        start_date=source.start,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=30)},
        tags=["drift", spec.name],
        doc_md=DOC.format(name=spec.name, description=spec.description),
        params={
            "window": Param(
                None,
                type=["null", "string"],
                pattern="^[1-9][0-9]{0,2}(d|w)$",
                title="Window",
                description_md="Days counted together, such as 1d or 1w. Empty: as in problem.yaml.",
            )
        },
    )
    def drift() -> None:
        @task(
            doc_md="Counts the newest dataset version in ClickHouse, compares it with what the champion learned from; "
            "writes histograms, a report, and the alarms. Skips while there is no dataset. If it fails, it names the "
            "server or the dataset: clear it, nothing is counted twice."
        )
        def check() -> dict[str, Any]:
            from adin.drift import service
            from adin.errors import NotFoundError

            from operators.external_run import key_of

            context = get_current_context()
            check_conf(context)
            activate("amversion", "s3", "lakefs", "clickhouse")
            try:
                found = service.check(
                    spec.name, key_of(context), policy=service.policy(spec, context["params"]["window"])
                )
            except NotFoundError as reason:
                raise AirflowSkipException(str(reason)) from None
            return found.facts()

        @task(
            outlets=[assets.drift(spec.name)],
            doc_md="Asks for a training where `run.on_drift` says so and data, label or loss drift; writes the asset "
            "event that starts it. Skips otherwise. If it fails: clear it.",
        )
        def retrain(found: dict[str, Any]) -> dict[str, Any]:
            from adin.drift import service

            context = get_current_context()
            if why_not := service.no_training(spec, found, scheduled=context["dag_run"].run_type == "scheduled"):
                raise AirflowSkipException(why_not)
            asked = service.asked_window(found, context.get("data_interval_end"))
            extra = {"window": asked, "alarms": found["active"], "report": found["report"]}
            context["outlet_events"][assets.drift(spec.name)].extra = extra
            return extra

        checked = check()
        checked.operator.operator_extra_links = (ReportLink(),)
        retrain(checked)

    drift()


DOC = """
### What it does
{description}
Compares the days after the champion's training with those it learned from: distributions of features and label, the
champion's loss, nulls, new and impossible values, missing and duplicate rows. An alarm needs an effect over a limit
that the training days taught, in most of the newest windows, with enough rows.

### What it writes
Counts by day in `drift_histograms` of ClickHouse, alarms in `drift_alarms`, a report below `drift/{name}/` in the
bucket of the models; where `run.on_drift` is set, an asset event that starts `train__{name}`.

### When it fails
The message names the server or the dataset. Clear the task: nothing is counted twice, and the same data gives the same
report. An alarm is no failure: see the button **Report** of the task `check`, and Browse, **Drift**.
"""

for each in names():
    try:
        found = problem(each)
        make(found, domain(found.domain))
    except Exception as fault:  # whatever is wrong with one, the DAGs of the others live on
        broken(f"drift__{each}", str(fault))
