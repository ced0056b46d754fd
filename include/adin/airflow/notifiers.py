"""Tells the alert service how tasks end: a notice in the queue, which fails no task and waits for nobody.

A task that failed for good raises an alert; the last task of a run that ends well takes back those of all before it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from adin.alerts import Alert

log = logging.getLogger(__name__)

#: Characters of an exception that an alert carries.
_LONGEST = 500
#: Stands for the whole run where an alert is not on a task.
_RUN = "(run)"
_KINDS = {"train": "AdinTrainingFailed", "rollback": "AdinRollbackFailed"}


class FailureNotifier(BaseNotifier):
    """Raises the alert on a task that failed and is not tried again: for ``on_failure_callback``."""

    def notify(self, context: Any) -> None:
        """Queue the alert."""
        _quietly(lambda: _tell_failure(context))


class SuccessNotifier(BaseNotifier):
    """Takes alerts back: for ``on_success_callback``, and ``on_skipped_callback``, as a task skips which had no work.

    Does nothing but at the last task of a DAG.
    """

    def notify(self, context: Any) -> None:
        """Queue that the failures of this task, and of those before it, are over."""
        if not context["task"].downstream_task_ids:
            _quietly(lambda: _tell_success(context))


async def deadline_missed(dag: str, hours: float, context: Mapping[str, Any] | None = None) -> None:
    """Queue the alert on a run that takes too long: for a deadline. Runs in the triggerer, which it does not hold up.

    :param context: what Airflow tells of the run there.
    """
    import asyncio

    from adin.alerts import outbox

    run = str(((context or {}).get("dag_run") or {}).get("dag_run_id") or "")
    notice = outbox.raised(late(dag, hours, run), actor="airflow")
    # by the connections of the environment: Airflow's own cannot be had from a thread of the triggerer
    await asyncio.to_thread(outbox.tell, notice)


def late(dag: str, hours: float, run: str) -> Alert:
    """Return the alert on a run that takes too long; the end of a run that went well takes it back."""
    from adin.alerts import Alert

    return Alert(
        name="AdinDeadlineMissed",
        severity="warning",
        labels={"dag": dag, "task": _RUN},
        summary=f"{dag}: run {run} has not ended well {hours:g} hours after it was queued",
        links={"page": f"/dags/{dag}/runs/{run}" if run else f"/dags/{dag}"},
        since=datetime.now(UTC),
    )


def _quietly(work: Any) -> None:
    try:
        work()
    except Exception:  # the task has ended as it has; whatever is wrong here changes nothing of that
        log.exception("the alert service could not be told")


def _tell_failure(context: Mapping[str, Any]) -> None:
    from adin.alerts import outbox

    outbox.tell(outbox.raised(failure(context), actor="airflow"), _connections)


def _tell_success(context: Mapping[str, Any]) -> None:
    from adin.alerts import outbox

    task = context["task"]
    tasks = sorted({_RUN, task.task_id, *task.get_flat_relative_ids(upstream=True)})
    match = {"dag": [context["ti"].dag_id], "task": tasks}
    outbox.tell(outbox.resolved(match, actor="airflow", reason=f"run {context['run_id']} went well"), _connections)


def failure(context: Mapping[str, Any]) -> Alert:
    """Return the alert on a failed task."""
    from adin.alerts import Alert
    from adin.logs import masked

    ti, error = context["ti"], context.get("exception")
    head, _, what = ti.dag_id.partition("__")
    name = "AdinQualityGateFailed" if _is_data(error) else _KINDS.get(head, "AdinTaskFailed")
    labels = {"dag": ti.dag_id, "task": ti.task_id}
    labels |= {"model": what} if head in _KINDS and what else {"domain": what} if head == "features" and what else {}
    told = masked(f"{type(error).__name__}: {error}" if error else "no exception was told")
    return Alert(
        name=name,
        severity="critical",
        labels=labels,
        summary=f"{ti.dag_id}: task {ti.task_id} failed: {told.splitlines()[0][:200]}",
        detail=told[:_LONGEST],
        links={"page": f"/dags/{ti.dag_id}/runs/{context['run_id']}/tasks/{ti.task_id}"},
        since=datetime.now(UTC),
    )


def _is_data(error: Any) -> bool:
    from adin.errors import DataError

    return isinstance(error, DataError)


def _connections() -> tuple[Any, Any]:
    """Return the connections ``amversion`` and ``s3``; called in the thread that may ask Airflow for them."""
    from adin.airflow.hooks import AmversionHook, S3Hook

    return AmversionHook().get_conn(), S3Hook().get_conn()
