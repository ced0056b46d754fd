"""How tasks are retried and limited, and who is told how they end; the same in every DAG."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference, ExceptionRetryPolicy, RetryRule
from airflow.sdk.definitions.retry_policy import RetryAction

from adin.airflow.notifiers import FailureNotifier, SuccessNotifier
from adin.settings import settings

#: What a person must mend is not tried again; see :attr:`adin.errors.AdinError.retryable`.
_FINAL = ("ConfigError", "DataError", "ModelError", "NotFoundError", "RefusedError")

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "adin",
    "retries": 3,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": FailureNotifier(),
    "on_success_callback": SuccessNotifier(),
    "on_skipped_callback": SuccessNotifier(),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(exception=f"adin.errors.{name}", action=RetryAction.FAIL, reason="needs a person")
            for name in _FINAL
        ]
    ),
}


def deadline(dag_id: str) -> DeadlineAlert:
    """Return the deadline of a DAG's runs; missing it stops nothing, but is told."""
    hours = settings().alert_deadline_hours
    callback = AsyncCallback("adin.airflow.notifiers.deadline_missed", kwargs={"dag": dag_id, "hours": hours})
    # Plain seconds, as Airflow used to store them: it stores a timedelta in a form that its own clearing of tasks
    # cannot read (_recalculate_dagrun_queued_at_deadlines in 3.3), so that no task of the run could be cleared.
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, hours * 3600, callback)
