"""Dataset versions in ClickHouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from operators.external_run import WorkOperator


class ClickHouseLoadOperator(WorkOperator):
    """Copy a dataset version from lakeFS into ClickHouse, counted, in one atomic step.

    :param problem: problem, and name of the table (templated).
    :param commit: lakeFS commit (templated).
    :returns: table, commit, rows by split, and whether anything had to be loaded.
    :raises DataError: the counts differ from the manifest; nothing was made visible.
    """

    template_fields: Sequence[str] = ("problem", "commit")
    connections: ClassVar[tuple[str, ...]] = ("clickhouse", "lakefs")

    def __init__(self, *, problem: str, commit: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem
        self.commit = commit

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Load."""
        from adin import datasets

        return asdict(datasets.load_clickhouse(self.problem, self.commit, key))
