"""KServe's InferenceService on Kubernetes: applied, followed to readiness, put back.

Annotations tell which piece of work applied the object, and what stood there before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adin.errors import NotFoundError
from adin.kubernetes_objects import RUN_KEY, CustomObjects
from adin.limits import Limits
from adin.settings import settings

#: The object as it was before: its specification and run key, JSON; empty for an object that was not there.
FORMER = "adin-mlops/former"
_KIND = ("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")


class InferenceServices:
    """The InferenceServices of one namespace.

    :param client: ``kubernetes.client.ApiClient``, signed in.
    :param namespace: where they are.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        limits = Limits(settings().connect_timeout, settings().read_timeout)
        self.namespace = namespace
        self._objects = CustomObjects(client, _KIND, namespace, limits)

    def get(self, name: str) -> dict[str, Any]:
        """Return one; :raises NotFoundError: there is none of this name."""
        return self._objects.get(name)

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
            former = marks.get(FORMER, "") if mine else json.dumps({"spec": now["spec"]})
        return self._objects.apply(name, spec, {RUN_KEY: key, FORMER: former}, rehearse=rehearse)

    def put_back(self, name: str, key: str, generation: int) -> None:
        """Undo what the work under a key applied, unless somebody else has changed it since.

        What is put back is nobody's work: the one that applied it first must not undo it a second time.
        """
        try:
            found = self.get(name)
        except NotFoundError:
            return
        if standing(found, key, generation) == "Superseded":
            return
        marks = found["metadata"]["annotations"]
        if not marks.get(FORMER):
            self._objects.delete(name)
            return
        self._objects.apply(name, json.loads(marks[FORMER])["spec"], {RUN_KEY: "", FORMER: ""})


def standing(found: Mapping[str, Any], key: str, generation: int) -> str:
    """Return in one word how an InferenceService stands.

    ``Ready`` counts only once the controller has seen the generation that was applied: before that it speaks of the
    one before.

    :param key: run key of the work that applied it.
    :param generation: the one it had then; another by now, and somebody has changed it. 0 if that is not known.
    """
    marks = found["metadata"].get("annotations") or {}
    status = found.get("status") or {}
    if marks.get(RUN_KEY) != key or generation not in (0, found["metadata"]["generation"]):
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
