"""Features: raw day partitions in HDFS to Hive feature tables and the online store. One DAG for each domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from adin.airflow import assets
from adin.airflow.domain import Domain, domains
from adin.airflow.hooks import activate
from adin.airflow.params import check_conf, window_params
from adin.airflow.policies import DEFAULT_ARGS
from adin.errors import DataError
from adin.window import run_window
from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task, task_group

from operators.feast import FeastMaterializeOperator
from operators.spark_hive import SparkHiveIngestOperator


@task(doc_md="Refuses unknown keys in the run's configuration and says which window it is for. Writes nothing.")
def check() -> str:
    """Return the window."""
    context = get_current_context()
    check_conf(context)
    return str(run_window(context))


@task.sensor(
    poke_interval=30,
    timeout=86400,
    mode="reschedule",
    doc_md="Waits for `_SUCCESS` in every raw day of the window. If it fails, load the days it names.",
)
def wait_raw(domain: str) -> bool:
    """Return whether all raw days are there; give up after the form's minutes."""
    from adin.features import raw

    context = get_current_context()
    activate("spark")
    missing = raw.missing(domain, run_window(context))
    waited = datetime.now(UTC) - context["dag_run"].start_date
    if missing and waited > timedelta(minutes=context["params"]["wait_minutes"]):
        raise DataError(
            f"Raw data did not arrive: {', '.join(missing[:5])} ({len(missing)} folders).",
            "Load them, `_SUCCESS` last, and clear this task.",
        )
    return not missing


@task(doc_md="Stops the line when a quality rule is broken. Correct data or rule, clear the ingest tasks.")
def quality_gate(results: list[dict[str, Any]]) -> None:
    """Look at the rules each ingest job found broken."""
    from adin.features import publish

    publish.gate(results)


@task(doc_md="Makes the staged days visible in Hive, one step a table. Safe to run again.")
def publish(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the facts of each table."""
    from adin.features import publish as publishing

    activate("spark")
    return [publishing.publish(result) for result in results]


@task(doc_md="Tells the DAGs that train on these features; a backfill is marked as one.")
def done(domain: str, facts: list[dict[str, Any]]) -> None:
    """Leave the facts with the asset's event."""
    context = get_current_context()
    context["outlet_events"][assets.features(domain)].extra = {
        "window": str(run_window(context)),
        "run_type": str(context["dag_run"].run_type.value),
        "rows": {fact["table"]: fact["rows"] for fact in facts},
        "changed_days": sum(fact["new"] + fact["changed"] for fact in facts),
    }


def make(domain: Domain) -> None:
    """Declare ``features__<domain>``."""

    @dag(
        dag_id=f"features__{domain.name}",
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        start_date=domain.start,
        end_date=domain.end,
        catchup=False,
        max_active_runs=1,
        max_active_tasks=2,
        default_args=DEFAULT_ARGS,
        tags=["features", domain.name],
        doc_md=DOC.format(domain=domain.name, tables=", ".join(domain.tables)),
        params={
            **window_params(),
            "wait_minutes": Param(
                60, type="integer", minimum=0, maximum=1440, title="Wait for raw data", description_md="Minutes."
            ),
        },
    )
    def features() -> None:
        @task_group
        def ingest() -> list[Any]:
            return [
                SparkHiveIngestOperator(
                    task_id=table,
                    domain=domain.name,
                    view=table,
                    doc_md=f"`{table}.sql` over the window, staged and checked. If it fails, it names the raw file.",
                ).output
                for table in domain.tables
            ]

        @task_group
        def materialize() -> None:
            for view in domain.views:
                FeastMaterializeOperator(
                    task_id=view,
                    domain=domain.name,
                    view=view,
                    doc_md=f"Writes what changed in `{view}` to Redis; newer values win. Safe to run again.",
                )

        staged = ingest()
        facts = publish(staged)
        check() >> wait_raw(domain.name) >> staged
        told = done.override(outlets=[assets.features(domain.name)])(domain.name, facts)
        quality_gate(staged) >> facts >> materialize() >> told

    features()


DOC = """
### What it does
For a window (a day, or any span given in the form): waits for the raw data of `{domain}` in HDFS, makes its feature
tables with Spark, checks their quality, publishes them in Hive and writes what changed to the online store.

### What it writes
Hive tables {tables}; Redis; the asset `features_{domain}`. A second run over the same window changes nothing.

### When it fails
The failing task names the file, rule or server and the remedy. Nothing half-made is visible; clear the task to go on.
Backfill: `airflow backfill create --dag-id features__{domain} --from-date 2013-01-01 --to-date 2013-01-03`.
"""

for each in domains():
    make(each)
