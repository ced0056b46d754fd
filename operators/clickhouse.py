"""Dataset versions in ClickHouse."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from adin.connections import connection
from airflow.sdk import BaseOperatorLink

from operators.external_run import Address, WorkOperator


class QueryLink(BaseOperatorLink):
    """The button on a task's page that opens ClickHouse's own page with a query of the version."""

    name = "ClickHouse query"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; empty where the connection names no web UI."""
        conn = connection("clickhouse")
        ui = conn.extra.get("ui")
        query = f"SELECT * FROM {conn.schema}.{operator.problem} WHERE _commit = '{operator.commit}' LIMIT 100"  # noqa: S608 - shown, not run
        return f"{ui}#{base64.b64encode(query.encode()).decode()}" if ui else ""


class ClickHouseLoadOperator(WorkOperator):
    """Copy a dataset version from lakeFS into ClickHouse, counted, in one atomic step.

    The engine fills a staging table under the run key as its query id; its partition is exchanged once the counts are
    those of the manifest. A task that is killed kills the query; what a worker that died left going is killed by the
    next try. The worker's slot is held while the engine copies: over HTTP a query lives with its request.

    :param problem: problem, and name of the table (templated).
    :param commit: lakeFS commit (templated).
    :returns: ``table``, ``commit``, ``rows`` by split, and ``loaded``: whether anything had to be.
    :raises DataError: the counts differ from the manifest; nothing was made visible.
    :raises NotFoundError: there is no such dataset version.
    :raises ServiceError: ClickHouse or lakeFS do not answer, or the query was killed; the next try loads anew.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "problem", "commit")
    operator_extra_links = (QueryLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("clickhouse", "lakefs")

    def __init__(self, *, problem: str, commit: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem
        self.commit = commit

    def asked(self) -> dict[str, Any]:
        """Return problem and commit."""
        return {"problem": self.problem, "commit": self.commit}

    def plan(self, key: str) -> dict[str, Any]:
        """Return the rows that are to be there, and those that are."""
        from adin import datasets

        return datasets.planned_clickhouse(self.problem, self.commit)

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the commit and the table."""
        lake, conn = connection("lakefs"), connection("clickhouse")
        source = f"lakefs://{lake.host}:{lake.port}", f"{lake.schema}/{self.commit}"
        return [source], [(f"clickhouse://{conn.host}:{conn.port}", f"{conn.schema}.{self.problem}")]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Load."""
        from adin import datasets

        return asdict(datasets.load_clickhouse(self.problem, self.commit, key))
