"""Models under load: in the local model server, or as an InferenceService on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.errors import RefusedError, RunFailedError

from operators.amversion import ModelLink
from operators.external_run import FAILED, RUNNING, SUCCEEDED, Address, ExternalRunOperator, JobLink, WorkOperator


class KserveDeployOperator(WorkOperator):
    """Put the champion of a model under load in the model server, ask it, and write ``served`` to the log.

    The server follows the log: whichever version is champion by then is loaded, beside the one that answers, and takes
    its place without a lost request. Done twice, nothing changes.

    :param model: the model, which is the problem's name (templated).
    :param reason: why; stands in the log. Default ``it answers`` (templated).
    :returns: ``model`` and the ``version`` that answers.
    :raises RefusedError: there is no champion, or a view of its features has nothing online.
    :raises ServiceError: model server or registry do not answer; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "model", "reason")
    operator_extra_links = (ModelLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("amversion", "s3", "kserve")

    def __init__(self, *, model: str, reason: str = "it answers", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.reason = reason

    def asked(self) -> dict[str, Any]:
        """Return the model."""
        return {"model": self.model}

    def plan(self, key: str) -> dict[str, Any]:
        """Return which version answers and which would; the server tries whether it loads."""
        from adin.errors import NotFoundError
        from adin.models import registry
        from adin.serving.client import ServingClient

        serving, champion = ServingClient(), registry().state(self.model).champion
        try:
            answers = serving.status(self.model)
        except NotFoundError:
            answers = {}
        check = serving.check(self.model, champion) if champion is not None else None
        return {"model": self.model, "champion": champion, "under_load": answers, "check": check}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the model in the registry, and in the server."""
        kept, served = connection("amversion"), connection("kserve")
        return [(f"amversion://{kept.host}:{kept.port}", self.model)], [(served.url, self.model)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Load, ask, log."""
        from adin.control import swap
        from adin.models import registry
        from adin.problem import problem
        from adin.serving.client import ServingClient

        actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "airflow"
        version = swap.follow(
            problem(self.model), registry(), ServingClient(), reason=self.reason, run_key=key, actor=actor
        )
        return {"model": self.model, "version": version}


class InferenceServiceOperator(ExternalRunOperator):
    """Apply a KServe InferenceService on Kubernetes and wait until what was applied is ready.

    The object is applied on the server's side, under the field manager ``adin``, and carries the run key. ``Ready`` of
    the generation before does not count. A task that is killed, or waits too long, puts back what stood there before.

    :param service: name of the InferenceService (templated).
    :param spec: its specification; name a model by an address that never changes what it holds (templated).
    :param namespace: Kubernetes namespace. Default ``default`` (templated).
    :param conn_id: connection of Airflow's Kubernetes provider. Default ``kubernetes_default``.
    :param poll_interval: seconds between two looks. Default 5.
    :param timeout: give up after this many seconds and put back what was there. Default 3600.
    :param deferrable: free the worker while waiting. Default Airflow's ``[operators] default_deferrable``.
    :returns: ``service``, ``namespace``, ``generation`` and ``url``.
    :raises ConfigError: Kubernetes refuses the specification, or the sign-in.
    :raises RefusedError: somebody else has changed it meanwhile; theirs is left alone.
    :raises RunFailedError: the model cannot be loaded, or the object was deleted.
    :raises ServiceError: Kubernetes does not answer; the next try finds what was applied.
    """

    template_fields: Sequence[str] = (*ExternalRunOperator.template_fields, "service", "spec", "namespace")
    operator_extra_links = (JobLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ()
    states: ClassVar[Mapping[str, str]] = {
        "Unseen": RUNNING,
        "NotReady": RUNNING,
        "Ready": SUCCEEDED,
        "InvalidSpec": FAILED,
        "BlockedByFailedLoad": FAILED,
        "Superseded": FAILED,
        "Deleting": FAILED,
    }

    def __init__(
        self,
        *,
        service: str,
        spec: dict[str, Any],
        namespace: str = "default",
        conn_id: str = "kubernetes_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.spec = spec
        self.namespace = namespace
        self.conn_id = conn_id
        self._url = ""

    def asked(self) -> dict[str, Any]:
        """Return the object."""
        return {"service": self.service, "namespace": self.namespace, "spec": self.spec}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what Kubernetes would store; it checks it like the real thing."""
        return {
            **self.asked(),
            "stored": self._services().apply(self.service, self.spec, key=key, rehearse=True)["spec"],
        }

    def find(self, key: str) -> str | None:
        """Return the object if this work applied it and it has not failed."""
        from adin.errors import NotFoundError
        from adin.serving.inference_service import standing

        try:
            found = self._services().get(self.service)
        except NotFoundError:
            return None
        failed = self.states.get(standing(found, key, 0)) == FAILED
        return None if failed else self._name(found, key)

    def submit(self, key: str) -> str:
        """Apply it."""
        return self._name(self._services().apply(self.service, self.spec, key=key), key)

    def state(self, job: str) -> str:
        """Return how it stands."""
        from adin.serving.inference_service import standing

        name, generation, key = job.split("/")
        found = self._services().get(name)
        self._url = str((found.get("status") or {}).get("url") or "")
        return standing(found, key, int(generation))

    def failure(self, job: str, word: str) -> Exception:
        """Return the error with what KServe says of it."""
        name, _, _ = job.split("/")
        if word == "Superseded":
            # a retry would put it over what another has applied since
            return RefusedError(
                f"InferenceService {self.namespace}/{name} was changed by somebody else before it was ready.",
                "Clear the task to apply this one again.",
            )
        status = self._services().get(name).get("status") or {}
        said = (status.get("modelStatus") or {}).get("lastFailureInfo") or ""
        return RunFailedError(
            f"InferenceService {self.namespace}/{name} ended {word}: {said}", "Mend it and clear the task."
        )

    def result(self, job: str) -> dict[str, Any]:
        """Return where it answers."""
        name, generation, _ = job.split("/")
        return {"service": name, "namespace": self.namespace, "generation": int(generation), "url": self._url}

    def cancel(self, job: str) -> None:
        """Put back what stood there before."""
        name, generation, key = job.split("/")
        self._services().put_back(name, key, int(generation))

    def link(self, job: str) -> str:
        """Return where it answers, once it does."""
        return self._url

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the model's address and the service."""
        model = (self.spec.get("predictor") or {}).get("model") or {}
        source = str(model.get("storageUri") or "")
        return [("storage", source)] if source else [], [("inferenceservice", f"{self.namespace}/{self.service}")]

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"service": self.service, "spec": {}, "namespace": self.namespace, "conn_id": self.conn_id}

    def _name(self, found: Mapping[str, Any], key: str) -> str:
        return f"{self.service}/{found['metadata']['generation']}/{key}"

    def _services(self) -> Any:
        from adin.serving.inference_service import InferenceServices
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

        return InferenceServices(KubernetesHook(conn_id=self.conn_id).get_conn(), self.namespace)
