"""Kubeflow Pipelines runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.errors import RunFailedError

from operators.external_run import FAILED, RUNNING, SUCCEEDED, ExternalRunOperator, JobLink


class KfpRunOperator(ExternalRunOperator):
    """Submit a compiled pipeline to Kubeflow Pipelines and follow the run to its end.

    The run is named after the task, so a retry finds the run already going instead of starting another.

    :param pipeline: name of a compiled pipeline in ``adin/pipelines`` (templated).
    :param arguments: pipeline arguments: ids, never secrets (templated).
    :param experiment: KFP experiment; tells production from experimental runs. Default ``production`` (templated).
    :returns: the run's id.
    :raises RunFailedError: the run ended FAILED, SKIPPED or CANCELED; carries the first failing step and its log.
    """

    template_fields: Sequence[str] = ("pipeline", "arguments", "experiment")
    operator_extra_links = (JobLink(),)
    connections: ClassVar[tuple[str, ...]] = ("kfp",)
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

    def find(self, key: str) -> str | None:
        """Find a run by its name; one that ended badly is not taken up again."""
        run = self._client().find(key)
        return None if run is None or self.states.get(run.state) == FAILED else str(run.run_id)

    def submit(self, key: str) -> str:
        """Upload the pipeline unless it is there, and start a run."""
        from adin.pipelines import compiled

        arguments = {**self.arguments, "run_key": key}
        return str(self._client().submit(compiled(self.pipeline), arguments, name=key, experiment=self.experiment))

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

    def cancel(self, job: str) -> None:
        """Terminate the run."""
        self._client().terminate(job)

    def link(self, job: str) -> str:
        """Return the run's page in the Kubeflow UI."""
        conn = connection("kfp")
        return f"{conn.extra.get('ui') or conn.url}/#/runs/details/{job}"

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"pipeline": self.pipeline, "arguments": {}}

    def _client(self) -> Any:
        from adin.pipelines.client import KfpClient

        return KfpClient()
