"""Custom resources of one kind in one namespace of Kubernetes, by its official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError, ServiceError
from adin.limits import Limits

#: Field manager of what we apply, so that fields of others stay theirs.
MANAGER = "adin"
#: Annotation, or label, by which an object tells the piece of work that made it.
RUN_KEY = "adin-mlops/run-key"
_ERRORS: dict[int, type[AdinError]] = {
    400: ConfigError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    409: ConflictError,
    422: ConfigError,
}


class CustomObjects:
    """The objects of one kind.

    Methods raise :class:`ConfigError` where the server refuses what is asked or the sign-in, :class:`NotFoundError` for
    an object that is not there, :class:`ServiceError` while the server does not answer.

    :param client: ``kubernetes.client.ApiClient``, signed in.
    :param kind: group, version, plural and kind.
    :param namespace: where they are.
    :param limits: timeouts and retries.
    """

    def __init__(self, client: Any, kind: tuple[str, str, str, str], namespace: str, limits: Limits) -> None:
        from kubernetes.client import ApiClient, CustomObjectsApi

        self._group, self._version, self._plural, self._kind = kind
        self._namespace = namespace
        self._timeouts = limits.timeouts
        self._host = client.configuration.host
        # the given client was made without, and takes it only when it is made
        client.configuration.retries = limits.repeats()
        self._api = CustomObjectsApi(ApiClient(client.configuration))

    def get(self, name: str) -> dict[str, Any]:
        """Return one."""
        return dict(self._call(self._api.get_namespaced_custom_object, *self._place, name))

    def find(self, key: str) -> list[dict[str, Any]]:
        """Return those whose label tells a run key."""
        found = self._call(self._api.list_namespaced_custom_object, *self._place, label_selector=f"{RUN_KEY}={key}")
        return list(found["items"])

    def create(self, name: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
        """Make one; :raises ConflictError: there is one of this name."""
        body = self._body(name, {"labels": dict(labels)}, spec)
        return dict(self._call(self._api.create_namespaced_custom_object, *self._place, body))

    def apply(
        self, name: str, spec: Mapping[str, Any], annotations: Mapping[str, str], *, rehearse: bool = False
    ) -> dict[str, Any]:
        """Bring one to a specification by server-side apply; :param rehearse: change nothing."""
        answer = self._call(
            self._api.patch_namespaced_custom_object,
            *self._place,
            name,
            self._body(name, {"annotations": dict(annotations)}, spec),
            field_manager=MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
            _preload_content=False,  # the client knows no answer to an object that is new (201), and returns None
            **({"dry_run": "All"} if rehearse else {}),
        )
        return dict(json.loads(answer.data))

    def delete(self, name: str) -> None:
        """Delete one."""
        self._call(self._api.delete_namespaced_custom_object, *self._place, name)

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return self._group, self._version, self._namespace, self._plural

    def _body(self, name: str, more: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": f"{self._group}/{self._version}",
            "kind": self._kind,
            "metadata": {"name": name, "namespace": self._namespace, **more},
            "spec": dict(spec),
        }

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


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
