"""Garbage collection: what nothing refers to is marked, and deleted after a grace time."""

from __future__ import annotations

import logging
from collections import Counter

from adin.airflow.hooks import activate
from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task

log = logging.getLogger(__name__)

CONNECTIONS = ("amversion", "s3", "kserve", "kfp", "lakefs", "clickhouse", "spark", "feast")


@dag(
    schedule=CronTriggerTimetable("30 4 * * *", timezone="UTC"),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    tags=["retention"],
    params={
        "apply": Param(
            True, type="boolean", title="Apply", description_md="Mark and delete. Off: only the plan, in the log."
        )
    },
    doc_md="""
### What it does
Looks for artefacts, manifests and versions of models to which no log, alias, running service or evidence refers; then
for pipeline runs, dataset versions, their files, temporary tables and feature partitions that nothing needs. What is
new is marked; what was marked `ADIN_RETENTION_GRACE_DAYS` ago and still is garbage is deleted.

### What it writes
Marks, a note in AMVersion's store; log entries `expire`, tags `expired-<commit>`; deletes objects, manifests, runs,
tables and folders. Never a log entry, and never anything of a version that was champion.

### When it fails
The message names the server that did not answer, or another collection under way. Clear the task: it goes on.
""",
)
def retention() -> None:
    """Declare the DAG."""

    @task(doc_md="Logs what would be marked and deleted. Writes nothing. If it fails, it names the server.")
    def plan() -> dict[str, int]:
        from adin.models import registry
        from adin.retention import collectors
        from adin.retention import plan as planned

        check_conf(get_current_context())
        activate(*CONNECTIONS)
        models = registry()
        found = planned(models.store, collectors(models))
        for each in found:
            log.info("%s %s %s (%d bytes): %s", each.step, each.collector, each.name, each.bytes, each.why)
        return dict(Counter(each.step for each in found))

    @task(doc_md="Marks and deletes, unless the form says only to plan. If it fails, clear it: it goes on.")
    def collect() -> dict[str, int]:
        from adin.models import registry
        from adin.retention import collect as collected
        from adin.retention import collectors

        if not get_current_context()["params"]["apply"]:
            return {}
        activate(*CONNECTIONS)
        models = registry()
        found = collected(models.store, collectors(models))
        freed = sum(each.bytes for each in found if each.step == "delete")
        return dict(Counter(each.step for each in found)) | {"bytes": freed}

    plan() >> collect()


retention()
