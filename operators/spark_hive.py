"""Spark jobs that make feature tables in Hive."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any, ClassVar

from adin.window import run_window

from operators.external_run import WorkOperator


class SparkHiveIngestOperator(WorkOperator):
    """Make one feature table's partitions of the run's window from raw data, staged and checked, not yet visible.

    A retry returns the result of a job that ended while nobody looked. With a local or client-mode master the job is a
    child of the task and ends with it.

    :param domain: feature domain.
    :param view: view or label table; ``<view>.sql`` of the domain is run.
    :returns: location, columns, rows and fingerprint per day, broken quality rules.
    :raises DataError: raw data is missing, unreadable or of another schema.
    """

    template_fields: Sequence[str] = ("domain", "view")
    connections: ClassVar[tuple[str, ...]] = ("spark",)

    def __init__(self, *, domain: str, view: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view
        self._process: int | None = None

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Run the job."""
        from adin.features import jobs

        arguments = {"domain": self.domain, "view": self.view, "window": str(run_window(context))}
        return jobs.run("ingest", key=key, arguments=arguments, on_start=self._started)

    def _started(self, process: int) -> None:
        self._process = process

    def on_kill(self) -> None:
        """Kill the job with the task."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process, signal.SIGKILL)
