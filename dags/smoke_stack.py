"""Touch every connection: what one runs first after an upgrade."""

from __future__ import annotations

from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.connections import NAMES
from adin.errors import ServiceError
from airflow.sdk import dag, get_current_context, task


@dag(
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"retries": 2},
    tags=["smoke"],
    doc_md="""
### What it does
Asks each service of the connections `<name>_default` something small, and reports each in a task of its own.

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

    first = check()
    for name in NAMES:
        first >> touch.override(task_id=name)(name)


smoke_stack()
