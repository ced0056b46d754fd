"""Dataset versions in lakeFS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.window import Window
from airflow.sdk import BaseOperatorLink

from operators.external_run import WorkOperator


class CommitLink(BaseOperatorLink):
    """The button on a task's page that leads to its commit in lakeFS."""

    name = "lakeFS commit"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the commit's page."""
        if not operator.commit:
            return ""
        conn = connection("lakefs")
        return f"{conn.url}/repositories/{conn.schema}/commits/{operator.commit}"


class BuildDatasetOperator(WorkOperator):
    """Join a problem's training set point in time and freeze it as one lakeFS commit.

    The same inputs give the same commit, whether the task is retried, cleared or run for another reason.

    :param problem: problem (templated).
    :param window: ``start/end`` of the events, UTC (templated).
    :returns: commit, window and rows by split.
    :raises DataError: no features or labels for the window.
    """

    template_fields: Sequence[str] = ("problem", "window")
    operator_extra_links = (CommitLink(),)
    connections: ClassVar[tuple[str, ...]] = ("spark", "feast", "s3", "lakefs")

    def __init__(self, *, problem: str, window: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem
        self.window = window
        self.commit = ""

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Build, or find."""
        from adin import datasets

        found = datasets.build(self.problem, Window.from_text(self.window), key, progress=self.log.info)
        self.commit = found.commit
        return {"commit": found.commit, "window": str(found.window), "rows": found.rows}
