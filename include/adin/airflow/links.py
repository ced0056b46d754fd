"""Buttons on the pages of tasks that are no operators of ours."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from adin.alerts.alert import absolute


class ReportLink(BaseOperatorLink):
    """The button on a task's page that opens the report the task returned, as path under ``report``."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address an alert carries for the same report; empty where the task was skipped or failed."""
        found = ti_key.xcom_pull(task_ids=operator.task_id)
        return absolute(found["report"]) if found else ""
