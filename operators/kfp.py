"""Kubeflow Pipelines runs: submit one, run the failed steps of one again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.errors import RunFailedError

from operators.external_run import FAILED, RUNNING, SUCCEEDED, Address, ExternalRunOperator, JobLink


class _KfpOperator(ExternalRunOperator):
    """What every operator that follows a run shares."""

    operator_extra_links: tuple[Any, ...] = (JobLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("kfp",)
    states: ClassVar[Mapping[str, str]] = {
        "PENDING": RUNNING,
        "RUNNING": RUNNING,
        "PAUSED": RUNNING,
        "CANCELING": RUNNING,
        "SUCCEEDED": SUCCEEDED,
        "FAILED": FAILED,
        "SKIPPED": FAILED,
        "CANCELED": FAILED,
    }

    def state(self, job: str) -> str:
        """Return the run's state."""
        return str(self._client().state(job))

    def failure(self, job: str, word: str) -> Exception:
        """Return the error with the first failing step and the end of its log."""
        client = self._client()
        try:
            client.check(client.get(job))
        except RunFailedError as error:
            return error
        return RunFailedError(f"Run {job} ended {word}.")

    def said(self, job: str) -> Iterator[str]:
        """Yield the end of each step's log, each line behind the name of its step."""
        for step, lines in self._client().logs(job):
            yield from (f"{step} | {line}" for line in lines)

    def cancel(self, job: str) -> None:
        """Terminate the run."""
        self._client().terminate(job)

    def link(self, job: str) -> str:
        """Return the run's page in the Kubeflow UI."""
        conn = connection("kfp")
        return f"{conn.extra.get('ui') or conn.url}/#/runs/details/{job}"

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the run as what is made."""
        conn = connection("kfp")
        return [], [(f"kfp://{conn.host}:{conn.port}", f"runs/{self._job}")] if self._job else []

    def _client(self) -> Any:
        from adin.pipelines.client import KfpClient

        return KfpClient()


class KfpRunOperator(_KfpOperator):
    """Submit a compiled pipeline to Kubeflow Pipelines and follow the run to its end.

    The run is named after the task, so a retry finds the run already going instead of starting another. A pipeline
    with a parameter ``run_key`` gets that name too.

    :param pipeline: name of a compiled pipeline in ``adin/pipelines``, or path of a compiled ``.yaml`` (templated).
    :param arguments: pipeline arguments: ids, never secrets (templated).
    :param experiment: KFP experiment; tells production from experimental runs. Default ``production`` (templated).
    :param poll_interval: seconds between two looks at the run. Default 5.
    :param timeout: give up after this many seconds; the run is terminated. Default 3600.
    :param deferrable: free the worker while waiting. Default Airflow's ``[operators] default_deferrable``.
    :returns: the run's id.
    :raises ConfigError: an argument is unknown or of a wrong type, or the token is refused.
    :raises RunFailedError: the run ended FAILED, SKIPPED or CANCELED; carries the first failing step and its log.
    :raises ServiceError: Kubeflow does not answer; the next try finds the run again.
    """

    template_fields: Sequence[str] = (*ExternalRunOperator.template_fields, "pipeline", "arguments", "experiment")

    def __init__(
        self, *, pipeline: str, arguments: dict[str, Any], experiment: str = "production", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.arguments = arguments
        self.experiment = experiment

    def asked(self) -> dict[str, Any]:
        """Return pipeline and arguments: another dataset commit is another run."""
        return {"pipeline": self.pipeline, "arguments": self.arguments, "experiment": self.experiment}

    def facts(self, result: Any) -> dict[str, Any]:
        """Return run, pipeline and arguments."""
        return {"run": result, **self.asked()}

    def find(self, key: str) -> str | None:
        """Find a run by its name; one that ended badly is not taken up again."""
        run = self._client().find(key)
        return None if run is None or self.states.get(run.state) == FAILED else str(run.run_id)

    def submit(self, key: str) -> str:
        """Upload the pipeline unless it is there, and start a run."""
        from adin.pipelines import compiled, parameters

        path = compiled(self.pipeline)
        own = {"run_key": key} if "run_key" in parameters(path) else {}
        return str(self._client().submit(path, self.arguments | own, name=key, experiment=self.experiment))

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"pipeline": self.pipeline, "arguments": {}}


class KfpRetryOperator(_KfpOperator):
    """Run the failed steps of a failed Kubeflow run again, under its own id, and follow it to its end.

    What succeeded is not run again. A run that goes is followed, one that has succeeded meanwhile is left as it is: the
    request cannot be lost or doubled.

    :param run: id of the run (templated).
    :param poll_interval: seconds between two looks at the run. Default 5.
    :param timeout: give up after this many seconds; the run is terminated. Default 3600.
    :param deferrable: free the worker while waiting. Default Airflow's ``[operators] default_deferrable``.
    :returns: the run's id.
    :raises NotFoundError: there is no such run.
    :raises RunFailedError: it ended badly again; carries the first failing step and its log.
    :raises ServiceError: Kubeflow does not answer; the next try finds how the run stands.
    """

    template_fields: Sequence[str] = (*ExternalRunOperator.template_fields, "run")

    def __init__(self, *, run: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = run

    def asked(self) -> dict[str, Any]:
        """Return the run."""
        return {"run": self.run}

    def plan(self, key: str) -> dict[str, Any]:
        """Return how the run stands, and which step would be run again first."""
        found = self._client().get(self.run)
        step = found.failed_step
        return {**self.asked(), "state": found.state, "again": step.name if step else None}

    def find(self, key: str) -> str | None:
        """Return the run itself unless it ended badly."""
        return self.run if self.states.get(self._client().state(self.run)) != FAILED else None

    def submit(self, key: str) -> str:
        """Ask for another attempt."""
        self._client().retry(self.run)
        return self.run

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"run": self.run}
