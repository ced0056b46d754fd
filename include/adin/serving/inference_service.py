"""KServe's InferenceService on Kubernetes: applied, followed to readiness, put back.

Objects go by server-side apply under a field manager of ours, so that fields of others stay theirs. Annotations tell
which piece of work applied the object, and what stood there before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError, ServiceError
from adin.limits import Limits
from adin.settings import settings

MANAGER = "adin"
RUN_KEY = "adin-mlops/run-key"
#: The object as it was before: its specification and run key, JSON; empty for an object that was not there.
FORMER = "adin-mlops/former"
_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_ERRORS: dict[int, type[AdinError]] = {
    400: ConfigError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    409: ConflictError,
    422: ConfigError,
}


class InferenceServices:
    """The InferenceServices of one namespace.

    :param client: ``kubernetes.client.ApiClient``, signed in.
    :param namespace: where they are.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes.client import ApiClient, CustomObjectsApi

        self.namespace = namespace
        self._host = client.configuration.host
        # the given client was made without, and takes it only when it is made
        client.configuration.retries = Limits(*self._timeouts).repeats()
        self._api = CustomObjectsApi(ApiClient(client.configuration))

    def get(self, name: str) -> dict[str, Any]:
        """Return one; :raises NotFoundError: there is none of this name."""
        return dict(self._call(self._api.get_namespaced_custom_object, *self._place, name))

    def apply(self, name: str, spec: Mapping[str, Any], *, key: str, rehearse: bool = False) -> dict[str, Any]:
        """Bring an InferenceService to a specification and return it as stored.

        :param key: run key of the work; another one than before remembers what stood there.
        :param rehearse: let the server check it and change nothing.
        :raises ConfigError: the server refuses the specification.
        """
        try:
            now = self.get(name)
        except NotFoundError:
            former = ""
        else:
            marks = now["metadata"].get("annotations") or {}
            mine = marks.get(RUN_KEY) == key
            former = marks.get(FORMER, "") if mine else json.dumps({"spec": now["spec"], "key": marks.get(RUN_KEY, "")})
        return self._put(name, spec, {RUN_KEY: key, FORMER: former}, rehearse=rehearse)

    def put_back(self, name: str, key: str) -> None:
        """Undo what the work under a key applied, unless somebody else has applied something since."""
        try:
            marks = self.get(name)["metadata"].get("annotations") or {}
        except NotFoundError:
            return
        if marks.get(RUN_KEY) != key:
            return
        if not marks.get(FORMER):
            self._call(self._api.delete_namespaced_custom_object, *self._place, name)
            return
        former = json.loads(marks[FORMER])
        self._put(name, former["spec"], {RUN_KEY: former["key"], FORMER: ""})

    @property
    def _timeouts(self) -> tuple[float, float]:
        return settings().connect_timeout, settings().read_timeout

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return _GROUP, _VERSION, self.namespace, _PLURAL

    def _put(
        self, name: str, spec: Mapping[str, Any], marks: Mapping[str, str], *, rehearse: bool = False
    ) -> dict[str, Any]:
        body = {
            "apiVersion": f"{_GROUP}/{_VERSION}",
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": dict(marks)},
            "spec": dict(spec),
        }
        more = {"dry_run": "All"} if rehearse else {}
        answer = self._call(
            self._api.patch_namespaced_custom_object,
            *self._place,
            name,
            body,
            field_manager=MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
            _preload_content=False,  # the client knows no answer to an object that is new (201), and returns None
            **more,
        )
        return dict(json.loads(answer.data))

    def _call(self, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return method(*args, **named, _request_timeout=self._timeouts)
        except ApiException as error:
            kind = _ERRORS.get(error.status or 0, ServiceError)
            raise kind(f"Kubernetes at {self._host}: {error.status} {_said(error)}") from None
        except (HTTPError, OSError) as error:
            raise ServiceError(f"Kubernetes at {self._host} does not answer: {error}.", "Is it up?") from None


def standing(found: Mapping[str, Any], key: str, generation: int) -> str:
    """Return in one word how an InferenceService stands.

    ``Ready`` counts only once the controller has seen the generation that was applied: before that it speaks of the
    one before.

    :param key: run key of the work that applied it.
    :param generation: the one it had then.
    """
    marks = found["metadata"].get("annotations") or {}
    status = found.get("status") or {}
    if marks.get(RUN_KEY) != key:
        return "Superseded"
    if found["metadata"].get("deletionTimestamp"):
        return "Deleting"
    if int(status.get("observedGeneration") or 0) < generation:
        return "Unseen"
    transition = str((status.get("modelStatus") or {}).get("transitionStatus", ""))
    if transition in ("InvalidSpec", "BlockedByFailedLoad"):
        return transition
    ready = {each["type"]: each["status"] for each in status.get("conditions", ())}.get("Ready")
    return "Ready" if ready == "True" else "NotReady"


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
