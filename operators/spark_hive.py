"""Spark jobs that make feature tables in Hive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.window import Window, run_window

from operators.external_run import WorkOperator


class SparkHiveIngestOperator(WorkOperator):
    """Make one feature table's partitions of a window from raw data, staged and checked, not yet visible.

    A retry returns the result of a job that ended while nobody looked. With a local or client-mode master the job is a
    child of the task and ends with it.

    :param domain: feature domain (templated).
    :param view: view or label table; ``<view>.sql`` of the domain is run (templated).
    :param window: ``start/end``, UTC. Default the run's own (templated).
    :returns: location, columns, rows and fingerprint per day, broken quality rules.
    :raises DataError: raw data is missing, unreadable or of another schema.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "domain", "view", "window")
    connections: ClassVar[tuple[str, ...] | None] = ("spark", "feast")

    def __init__(self, *, domain: str, view: str, window: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view
        self.window = window

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Run the job."""
        from adin.features import jobs

        window = Window.from_text(self.window) if self.window else run_window(context)
        arguments = {"domain": self.domain, "view": self.view, "window": str(window)}
        return jobs.run("ingest", key=key, arguments=arguments)
