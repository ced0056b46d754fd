"""Continuous training: stop it, resume it."""

from __future__ import annotations

import logging
from typing import Any

from adin.airflow.hooks import activate
from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.problem import names
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, dag, get_current_context, task

from operators.external_run import key_of

log = logging.getLogger(__name__)
problems = names()


@dag(
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=["control"],
    params={
        "problem": Param(
            next(iter(problems), None),
            type="string",
            enum=problems,
            title="Problem",
            description_md="Whose training; all others go on as they are.",
        ),
        "action": Param(
            "stop",
            type="string",
            enum=["stop", "train_only", "resume", "reconcile"],
            title="Action",
            description_md="`train_only` goes on training and deploys nothing; `reconcile` repairs after a crash.",
        ),
        "in_flight": Param(
            "finish",
            type="string",
            enum=["finish", "cancel"],
            title="Runs in flight",
            description_md="When stopping: let them finish (their model is registered, not deployed) or cancel them.",
        ),
        "run_now": Param(
            False, type="boolean", title="Train now", description_md="When resuming: start one training run."
        ),
        "reason": Param(type="string", minLength=1, title="Reason", description_md="Stands in the log."),
    },
    doc_md="""
### What it does
Stops or resumes the continuous training of a problem. Whatever a run is doing: it reads mode and pin again before it
deploys. Resuming catches up nothing: the next run is the next one due, or one at once with `run_now`.

### What it writes
The mode, in the model's log.

### When it fails
The message names the place and the remedy. A rollback under way is not interfered with. Clear the task to go on.
""",
)
def ct_control() -> None:
    """Declare the DAG."""

    @task(doc_md="Writes the new mode to the model's log; says what was in flight. If it fails, clear it.")
    def change() -> dict[str, Any]:
        from adin import control

        context = get_current_context()
        check_conf(context)
        activate("amversion", "s3", "kfp", "kserve")
        params = context["params"]
        name, action = params["problem"], params["action"]
        told = {"actor": context["dag_run"].triggering_user_name or "airflow"}
        if action == "reconcile":
            log.info("%s", control.reconcile(name, **told) or "log and serving agree")
        elif action == "resume":
            control.resume(name, reason=params["reason"], run_key=key_of(context), **told)
        else:
            mode = "stopped" if action == "stop" else action
            runs = control.stop(
                name, reason=params["reason"], mode=mode, running=params["in_flight"], run_key=key_of(context), **told
            )
            log.info("in flight: %s; %s", ", ".join(runs) or "none", params["in_flight"])
        found = control.status(name).as_dict()
        log.info("%s", found)
        return found

    @task.short_circuit(
        doc_md="Goes on only where training was resumed and is to start at once. If it fails, clear it."
    )
    def run_now() -> bool:
        params = get_current_context()["params"]
        return params["action"] == "resume" and params["run_now"]

    train = TriggerDagRunOperator(
        task_id="train",
        trigger_dag_id="train__{{ params.problem }}",
        trigger_run_id="resumed__{{ run_id }}",
        skip_when_already_exists=True,
        doc_md="Starts one training run. If it fails, clear it: a run already started is found.",
    )
    change() >> run_now() >> train


if problems:
    ct_control()
