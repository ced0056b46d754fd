"""Spark jobs that make feature tables in Hive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.window import Window, run_window

from operators.external_run import Address, WorkOperator


class SparkHiveIngestOperator(WorkOperator):
    """Make one feature table's partitions of a window from raw data, staged and checked, not yet visible.

    A retry returns the result of a job that ended while nobody looked. Where all days are published and neither raw
    files nor queries, rules and code have changed since, no job is run, unless ``renew`` asks for it. With a local or
    client-mode master the job is a child of the task and ends with it; the worker's slot is held that long.

    :param domain: feature domain (templated).
    :param view: view or label table; ``<view>.sql`` of the domain is run (templated).
    :param window: ``start/end``, UTC. Default the run's own (templated).
    :returns: ``application_id``, the name Spark gave the job; ``location``, ``columns``, ``partitions`` (rows and
        fingerprint per day), ``violations`` of quality rules; ``unchanged`` where no job was run.
    :raises DataError: raw data is missing, unreadable or of another schema; names the file.
    :raises ServiceError: HDFS, the metastore or the master do not answer; the next try begins anew.
    :raises RunFailedError: the job ended badly; carries the end of its log.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "domain", "view", "window")
    connections: ClassVar[tuple[str, ...] | None] = ("spark", "feast")

    def __init__(self, *, domain: str, view: str, window: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view
        self.window = window

    def asked(self) -> dict[str, Any]:
        """Return table and window."""
        return {"domain": self.domain, "view": self.view, "window": self.window}

    def facts(self, result: Any) -> dict[str, Any]:
        """Return rows a day, not the whole result."""
        rows = {day: part["rows"] for day, part in result["partitions"].items()}
        return {"table": result["table"], "window": result["window"], "rows": rows}

    def plan(self, key: str) -> dict[str, Any]:
        """Return the raw folders that are missing, and whether a job of this key has ended well already."""
        from adin.features import jobs, raw

        missing = raw.missing(self.domain, Window.from_text(self.window)) if self.window else None
        return {"run_key": key, **self.asked(), "missing": missing, "done": jobs.result(key) is not None}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the raw tables in HDFS and the table in Hive."""
        from adin.features import repo

        found, conn = repo.domain(self.domain), connection("spark")
        raw = [(str(conn.extra["namenode"]), found.folder(table, "")) for table in found.reads[self.view]]
        return raw, [(str(conn.extra["metastore"]), found.view(self.view).table)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Run the job."""
        from adin.features import inputs, jobs, repo

        window = Window.from_text(self.window) if self.window else run_window(context)
        done = None if self.renew else inputs.unchanged(repo.domain(self.domain), self.view, window.whole_days)
        if done is not None:
            self.log.info("%s: complete, and made from what is there now; no job is run", done["table"])
            return done | {"key": key}
        arguments = {"domain": self.domain, "view": self.view, "window": str(window)}
        return jobs.run("ingest", key=key, arguments=arguments)
