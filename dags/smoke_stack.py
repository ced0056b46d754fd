"""Touch every connection: what one runs first after an upgrade."""

from __future__ import annotations

import logging
from typing import Any

from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.connections import NAMES
from adin.errors import ConfigError, ServiceError
from airflow.sdk import dag, get_current_context, task

log = logging.getLogger(__name__)


@dag(
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"retries": 2},
    tags=["smoke"],
    doc_md="""
### What it does
Asks each service of the connections `<name>_default` something small, each in a task of its own, at the same time; the
last task tells how all of them are. It takes a minute; run it first after an upgrade.

### What it writes
Nothing.

### When it fails
The task's message says what the service answered. Correct the connection under Admin, Connections, and test it there.
""",
)
def smoke_stack() -> None:
    """Declare the DAG."""

    @task(doc_md="Refuses unknown keys. Writes nothing. If it fails, start a run without them.")
    def check() -> None:
        check_conf(get_current_context())

    @task(doc_md="Asks one service. Writes nothing. If it fails, its message says what is wrong.")
    def touch(name: str) -> str:
        from adin.airflow import hooks

        good, answer = getattr(hooks, f"{name.capitalize()}Hook")().test_connection()
        if not good:
            raise ServiceError(f"{name}_default: {answer}")
        return answer

    @task(
        trigger_rule="all_done",
        doc_md="Tells how each service is, in one place. Writes nothing. If it fails, mend those it names.",
    )
    def report() -> dict[str, str]:
        ti: Any = get_current_context()["ti"]
        answers = {name: ti.xcom_pull(task_ids=name) or "" for name in NAMES}
        for name, answer in answers.items():
            log.info("%-12s %s", name, answer or "NO ANSWER; see its task")
        if silent := [name for name, answer in answers.items() if not answer]:
            # each was tried again already; once more changes nothing
            raise ConfigError(f"No good answer: {', '.join(silent)}.", "Their tasks say why.")
        return answers

    first, told = check(), report()
    for name in NAMES:
        asked = touch.override(task_id=name)(name)
        first >> asked >> told


smoke_stack()
