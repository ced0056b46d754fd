"""Features: raw day partitions in HDFS to Hive feature tables and the online store. One DAG for each domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from adin.airflow import assets
from adin.airflow.broken import broken
from adin.airflow.domain import Domain, domain, names
from adin.airflow.hooks import activate
from adin.airflow.params import check_conf, window_params
from adin.airflow.policies import DEFAULT_ARGS, deadline
from adin.errors import DataError
from adin.run_key import content_hash
from adin.window import Window
from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task, task_group

from operators.feast import FeastMaterializeOperator
from operators.spark_hive import SparkHiveIngestOperator


@task(
    doc_md="Refuses unknown keys and says which window the run is for; skips the schedule's runs after the source has "
    "ended. Writes nothing. If it fails, it names the key of the form that is wrong."
)
def window(name: str) -> str:
    """Return the window."""
    context = get_current_context()
    check_conf(context)
    return str(domain(name).window(context))


@task.sensor(
    poke_interval=30,
    timeout=86400,
    mode="reschedule",
    doc_md="Waits for `_SUCCESS` in every raw day of the window. Writes nothing. If it fails, load the days it names.",
)
def wait_raw(domain: str, window: str) -> bool:
    """Return whether all raw days are there; give up after the form's minutes."""
    from adin.features import raw

    context = get_current_context()
    activate("spark", "feast")
    missing = raw.missing(domain, Window.from_text(window))
    waited = datetime.now(UTC) - context["dag_run"].start_date
    if missing and waited > timedelta(minutes=context["params"]["wait_minutes"]):
        raise DataError(
            f"Raw data did not arrive: {', '.join(missing[:5])} ({len(missing)} folders).",
            "Load them, `_SUCCESS` last, and clear this task.",
        )
    return not missing


@task(doc_md="Judges the quality rules. Writes nothing. If it fails, correct data or rule and clear the ingest tasks.")
def quality_gate(results: list[dict[str, Any]]) -> None:
    """Look at the rules each ingest job found broken."""
    from adin.features import publish

    publish.gate(results)


@task(doc_md="Makes the staged days visible in Hive, one step a table. If it fails, no table is half new: clear it.")
def publish(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the facts of each table."""
    from adin.features import publish as publishing

    activate("spark", "feast")
    return [publishing.publish(result) for result in results]


@task(doc_md="Writes the asset event that starts training; a backfill is marked as one. If it fails: clear it.")
def done(domain: str, window: str, facts: list[dict[str, Any]]) -> None:
    """Leave the facts with the asset's event."""
    context = get_current_context()
    context["outlet_events"][assets.features(domain)].extra = {
        "window": window,
        "run_type": str(context["dag_run"].run_type.value),
        "rows": {fact["table"]: fact["rows"] for fact in facts},
        "fingerprints": {fact["table"]: content_hash(fact["fingerprints"])[:16] for fact in facts},
        "changed_days": sum(fact["new"] + fact["changed"] for fact in facts),
    }


def make(spec: Domain) -> None:
    """Declare ``features__<domain>``."""

    @dag(
        dag_id=f"features__{spec.name}",
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        start_date=spec.start,
        # no end_date: a run started by hand after it would never get its tasks started
        catchup=False,
        max_active_runs=1,
        max_active_tasks=2,
        default_args=DEFAULT_ARGS,
        deadline=deadline(f"features__{spec.name}"),
        tags=["features", spec.name],
        doc_md=DOC.format(domain=spec.name, tables=", ".join(spec.tables)),
        params={
            **window_params("the day of the schedule; for a source that has ended, its last day"),
            "wait_minutes": Param(
                60,
                type="integer",
                minimum=0,
                maximum=1440,
                title="Wait for raw data",
                description_md="Minutes. Then the run fails and names the folders that are missing.",
                section="Limits",
            ),
        },
    )
    def features() -> None:
        span = window(spec.name)

        @task_group
        def ingest() -> list[Any]:
            return [
                SparkHiveIngestOperator(
                    task_id=table,
                    domain=spec.name,
                    view=table,
                    window=span,
                    doc_md=f"Runs `{table}.sql`; writes staged days, checked. If it fails, mend the raw file it names.",
                ).output
                for table in spec.tables
            ]

        @task_group
        def materialize() -> None:
            for view in spec.views:
                FeastMaterializeOperator(
                    task_id=view,
                    domain=spec.name,
                    view=view,
                    window=span,
                    doc_md=f"Writes what changed in `{view}` to Redis; newer values win. If it fails, clear it.",
                )

        staged = ingest()
        facts = publish(staged)
        wait_raw(spec.name, span) >> staged
        told = done.override(outlets=[assets.features(spec.name)])(spec.name, span, facts)
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
Backfill: `adin airflow backfill create --dag-id features__{domain} --max-active-runs 1 --from-date .. --to-date ..`.
"""

for each in names():
    try:
        make(domain(each))
    except Exception as fault:  # whatever is wrong with one, the DAGs of the others live on
        broken(f"features__{each}", str(fault))
