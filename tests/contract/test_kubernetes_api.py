"""Manifests and the tuning's Experiment, as a real Kubernetes API server judges them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from adin.connections import Connection
from chart import DEPLOY, rendered
from kube_server import apply, ask, kubernetes
from kubernetes.client.exceptions import ApiException

pytestmark = [pytest.mark.flow(25), pytest.mark.filterwarnings("ignore")]

PLURALS = {"Deployment": "deployments", "Service": "services", "Notebook": "notebooks"}
PLURALS |= {"InferenceService": "inferenceservices", "SparkApplication": "sparkapplications"}
FILES = ("inference-service", "spark-application", "notebook")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with kubernetes(tmp_path_factory.mktemp("kubernetes")) as conn:
        yield conn


def shipped() -> list[Any]:
    """Return the chart's objects, and those of the other manifests."""
    found = [*rendered(), *(yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()) for name in FILES)]
    return [pytest.param(each, id=f"{each['kind']} {each['metadata']['name']}") for each in found]


@pytest.mark.parametrize("document", shipped())
def test_what_is_shipped_is_stored_as_it_is_written(server: Connection, document: dict[str, Any]) -> None:
    stored = apply(server, document, PLURALS[document["kind"]])
    assert holds(stored["spec"], document["spec"])


@pytest.mark.parametrize("document", shipped())
def test_a_key_that_is_written_wrong_is_refused(server: Connection, document: dict[str, Any]) -> None:
    """Where the definition says nothing of the pod, its pod is checked as one."""
    wrong = deepcopy(document)
    if document["kind"] == "Notebook":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": wrong["spec"]["template"]["spec"]}
        apply(server, pod, "pods")
        pod["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(ApiException, match="imagee"):
            apply(server, pod, "pods")
        return
    wrong["spec"]["sppec"] = "x"
    with pytest.raises(ApiException, match="sppec"):
        apply(server, wrong, PLURALS[document["kind"]])


def test_a_value_of_the_wrong_kind_is_refused_by_kserves_own_definition(server: Connection) -> None:
    document = yaml.safe_load((DEPLOY / "inference-service.yaml").read_text())
    document["spec"]["predictor"]["minReplicas"] = "two"
    with pytest.raises(ApiException) as told:
        apply(server, document, "inferenceservices")
    assert told.value.status in (400, 422, 500)
    assert "minReplicas" in str(told.value.body)


def test_nothing_of_the_rehearsals_was_stored(server: Connection) -> None:
    found = ask(server, "GET", "/apis/apps/v1/namespaces/default/deployments")
    assert found["items"] == []


def holds(stored: Any, written: Any) -> bool:
    """Tell whether all that was written is in what was stored, beside the server's own defaults."""
    if isinstance(written, dict):
        return all(name in stored and holds(stored[name], value) for name, value in written.items())
    if isinstance(written, list):
        return len(stored) == len(written) and all(map(holds, stored, written))
    return bool(stored == written) or str(stored) == str(written)
