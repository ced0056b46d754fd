"""Spark jobs that make feature tables in Hive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.errors import NotFoundError, RunFailedError
from adin.features import clusters
from adin.window import Window, run_window

from operators.external_run import SUCCEEDED, Address, ExternalRunOperator, JobLink

#: State of a job that was a child of this process, or that its cluster has forgotten: it has left its result.
_DONE = "DONE"


class SparkHiveIngestOperator(ExternalRunOperator):
    """Make one feature table's partitions of a window from raw data, staged and checked, not yet visible.

    A retry returns the result of a job that ended while nobody looked. Where all days are published and neither raw
    files nor queries, rules and code have changed since, no job is run, unless ``renew`` asks for it.

    With a local or client-mode master the job is a child of the task and ends with it; the worker's slot is held that
    long. In cluster mode, on YARN or Kubernetes, it goes on without the task, which may wait deferred.

    :param domain: feature domain (templated).
    :param view: view or label table; ``<view>.sql`` of the domain is run (templated).
    :param window: ``start/end``, UTC. Default the run's own (templated).
    :param poll_interval: seconds between two looks at the job. Default 5.
    :param timeout: give up after this many seconds; the job is cancelled. Default 3600.
    :param deferrable: free the worker while waiting, in cluster mode. Default Airflow's
        ``[operators] default_deferrable``.
    :returns: ``application_id``, the name Spark gave the job; ``location``, ``columns``, ``partitions`` (rows and
        fingerprint per day), ``violations`` of quality rules; ``unchanged`` where no job was run.
    :raises DataError: raw data is missing, unreadable or of another schema; names the file.
    :raises ServiceError: HDFS, the metastore or the master do not answer; the next try goes on or begins anew.
    :raises RunFailedError: the job ended badly; carries what its driver said last.
    """

    template_fields: Sequence[str] = (*ExternalRunOperator.template_fields, "domain", "view", "window")
    operator_extra_links = (JobLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("spark", "feast")
    states: ClassVar[Mapping[str, str]] = {
        **clusters.Yarn.states,
        **clusters.Kubernetes.states,
        _DONE: SUCCEEDED,
    }

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

    def execute(self, context: Any) -> Any:
        """Do nothing if all is there, else find or start the job and follow it."""
        self.connect()
        self.window = self.window or str(run_window(context))
        if self.plan_only or (found := self._unchanged()) is None:
            return super().execute(context)
        self.log.info("%s: complete, and made from what is there now; no job is run", found["table"])
        result = found | {"key": self.key(context)}
        self.tell(context, result)
        return result

    def resume(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after the wait."""
        self.window = self.window or str(run_window(context))
        return super().resume(context, event)

    def find(self, key: str) -> str | None:
        """Return the application that has left its result, or goes."""
        from adin.features import jobs

        if (done := jobs.result(key)) is not None:
            return str(done["application_id"])
        return jobs.find(self._cluster, key) if self._cluster else None

    def submit(self, key: str) -> str:
        """Start the job; where its driver is a child of this process, run it to its end."""
        from adin.features import jobs

        arguments = {"domain": self.domain, "view": self.view, "window": self.window}
        if self._cluster:
            return jobs.submit("ingest", key=key, arguments=arguments, conn=connection("spark"))
        return str(jobs.run("ingest", key=key, arguments=arguments)["application_id"])

    def state(self, job: str) -> str:
        """Return the cluster's word, or that the job has left its result."""
        from adin.features import jobs

        if self._key and jobs.result(self._key) is not None:
            return _DONE
        if self._cluster is None:
            raise NotFoundError(f"Job {job} has left no result.")
        return self._cluster.state(job)

    def result(self, job: str) -> dict[str, Any]:
        """Return what the job left."""
        from adin.features import jobs

        found = jobs.result(self._key or "")
        if found is None:
            raise RunFailedError(f"Job {job} has succeeded and left no result.", "Clear the task.")
        return found

    def failure(self, job: str, word: str) -> Exception:
        """Return what the driver said, or the cluster."""
        from adin.features import jobs

        assert self._cluster is not None and self._key is not None
        return jobs.failure(self._cluster, self._key, job, word)

    def cancel(self, job: str) -> None:
        """Stop the application."""
        if self._cluster:
            self._cluster.cancel(job)

    def on_kill(self) -> None:
        """Stop the application, or the child, which ends with the error that is raised here."""
        super().on_kill()
        if self._cluster is None:
            raise RunFailedError(f"{self.task_id} was killed.")

    def link(self, job: str) -> str:
        """Return the application's page at the resource manager."""
        return self._cluster.link(job) if self._cluster else ""

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"domain": self.domain, "view": self.view, "window": self.window}

    @property
    def _cluster(self) -> clusters.Cluster | None:
        return clusters.of(connection("spark"))

    def _unchanged(self) -> dict[str, Any] | None:
        from adin.features import inputs, repo

        if self.renew:
            return None
        window = Window.from_text(str(self.window)).whole_days
        return inputs.unchanged(repo.domain(self.domain), self.view, window)
