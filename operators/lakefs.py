"""Dataset versions in lakeFS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.window import Window

from operators.external_run import WorkOperator


class BuildDatasetOperator(WorkOperator):
    """Join a problem's training set point in time and freeze it as one lakeFS commit.

    The same inputs give the same commit, whether the task is retried, cleared or run for another reason.

    :param problem: problem (templated).
    :param window: ``start/end`` of the events, UTC (templated).
    :returns: commit, window and rows by split.
    :raises DataError: no features or labels for the window.
    """

    template_fields: Sequence[str] = ("problem", "window")
    connections: ClassVar[tuple[str, ...]] = ("spark", "lakefs")

    def __init__(self, *, problem: str, window: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem
        self.window = window

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Build, or find."""
        from adin import datasets

        found = datasets.build(self.problem, Window.from_text(self.window), key, progress=self.log.info)
        return {"commit": found.commit, "window": str(found.window), "rows": found.rows}
