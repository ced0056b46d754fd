"""Back to an earlier model: one DAG for each problem in include/problems, started by hand only."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from adin.airflow.broken import broken
from adin.airflow.hooks import activate
from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.errors import ConfigError, RunFailedError
from adin.problem import Problem, names, problem
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag, get_current_context, task
from airflow.utils.types import DagRunType

from operators.amversion import AmversionRollbackOperator

log = logging.getLogger(__name__)
_SERVICES = ("amversion", "s3", "kserve", "kfp")


def target_of(params: Any) -> str:
    """Return what the form asks for, as the pipeline takes it.

    :raises ConfigError: the field that belongs to the choice is empty.
    """
    to = params["to"]
    if to == "previous":
        return "previous"
    if params[to] is None:
        raise ConfigError(f"The form says {to}, but the field {to} is empty.", "Trigger a new run.")
    return str(params[to])


def make(spec: Problem) -> None:
    """Declare ``rollback__<problem>``."""

    @dag(
        dag_id=f"rollback__{spec.name}",
        schedule=None,
        allowed_run_types=[DagRunType.MANUAL],
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        tags=["control", spec.name],
        doc_md=DOC.format(name=spec.name),
        params={
            "to": Param(
                "previous",
                type="string",
                enum=["previous", "version", "time"],
                title="Back to",
                description_md="`previous`: what the champion took the place of; else the field below of that name.",
            ),
            "version": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="Version",
                description_md="Number of a version that was validated once; read for `version` only.",
            ),
            "time": Param(
                None,
                type=["null", "string"],
                format="date-time",
                title="Time",
                description_md="The champion of this time, UTC; read for `time` only.",
            ),
            "reason": Param(type="string", minLength=1, title="Reason", description_md="Stands in the log."),
        },
    )
    def rollback() -> None:
        @task(doc_md="Says what would change. Writes nothing. If it fails, the target does not load or lacks features.")
        def plan() -> dict[str, Any]:
            from adin import control

            context = get_current_context()
            check_conf(context)
            activate(*_SERVICES)
            found = control.plan(spec.name, target_of(context["params"])).check().as_dict()
            for name, value in found.items():
                log.info("%s: %s", name, value)
            return found

        @task(
            doc_md="Compares champion and the version that answers. Writes nothing. If it fails: `adin ct reconcile`."
        )
        def check() -> dict[str, Any]:
            from adin import control

            activate(*_SERVICES)
            found = control.status(spec.name)
            if found.champion != found.answers:
                raise RunFailedError(
                    f"{spec.name}: champion is {found.champion}, under load is {found.answers}.",
                    f"Mend it with `adin ct reconcile {spec.name}`.",
                )
            return found.as_dict()

        planned = plan()
        run = AmversionRollbackOperator(
            task_id="rollback",
            model=spec.name,
            target="{{ ti.xcom_pull('plan')['version'] }}",
            reason="{{ params.reason }}",
            by="{{ dag_run.triggering_user_name or 'airflow' }}",
            deferrable=False,  # somebody is waiting, and the way through the triggerer costs seconds
            doc_md="The KFP run: stop training, pin, load, probe, log. If it fails, clear it: nothing is done twice.",
        )
        if spec.rollback.approval:
            planned >> approval(spec) >> run
        planned >> run >> check()

    rollback()


def approval(spec: Problem) -> Any:
    """Return the task that waits for a person."""
    return ApprovalOperator(
        task_id="approve",
        subject=f"Roll {spec.name} back?",
        body="{% for name, value in ti.xcom_pull('plan').items() %}* **{{ name }}**: {{ value }}\n{% endfor %}",
        assigned_users=[{"id": user, "name": user} for user in spec.rollback.approvers] or None,
        ignore_downstream_trigger_rules=True,
        response_timeout=timedelta(hours=2),
        doc_md="Waits up to two hours for somebody to approve the plan. Writes nothing. If it fails, nothing changed.",
    )


DOC = """
### What it does
Shows what would change, then submits the Kubeflow pipeline `rollback`: continuous training is stopped, the earlier
version of `{name}` is pinned, loaded beside the one that answers, swapped in, and asked; training then goes on without
deploying. A frozen model can be rolled back too.

### What it writes
The log of model `{name}`; which version is under load.

### When it fails
The plan names what stands against it; nothing was changed. A failed swap is undone. Clear the task to go on.
Back again: `adin model unfreeze {name}`; deploy again: DAG `ct_control`, `resume`.
"""

for each in names():
    try:
        make(problem(each))
    except Exception as fault:  # whatever is wrong with one, the DAGs of the others live on
        broken(f"rollback__{each}", str(fault))
