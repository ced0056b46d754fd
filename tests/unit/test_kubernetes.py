"""Manifests for Kubernetes and Docker: known to the API's own models, and consistent with the code."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from adin.connections import NAMES, Connection
from adin.features import jobs
from adin.settings import ROOT
from adin.stack import services
from adin.tuning import katib
from chart import DEPLOY, VALUES, rendered

pytestmark = [pytest.mark.ml, pytest.mark.flow(25)]
COMPOSE = ROOT / "deploy" / "compose"
AIRFLOW_IMAGE = yaml.safe_load((COMPOSE / "docker-compose.yaml").read_text())["services"]["push"]["image"]


def known(kind: str, document: Any) -> None:
    """Let the Kubernetes client read an object as a class of its own and write it again: no key may be lost."""
    from kubernetes.client import ApiClient

    client = ApiClient()
    read = client.deserialize(SimpleNamespace(data=json.dumps(document)), kind)
    assert client.sanitize_for_serialization(read) == document


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())


def containers() -> dict[str, dict[str, Any]]:
    """Return the container of every shipped workload of our images."""
    found = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in rendered() if "replicas" in each["spec"]
    }
    found["inference-service"] = manifest("inference-service")["spec"]["predictor"]
    found["notebook"] = manifest("notebook")["spec"]["template"]["spec"]
    return {name: pod["containers"][0] for name, pod in found.items()}


def test_the_chart_is_a_deployment_and_a_service_for_each_of_ours_and_nothing_else():
    made = rendered()
    assert [each["kind"] for each in made] == ["Deployment", "Service"] * len(VALUES["services"])
    for each in made:
        known(f"V1{each['kind']}", each)
    for deployment, service in zip(made[::2], made[1::2], strict=True):
        assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
        assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_client_that_checks_notices_a_wrong_key():
    (deployment, _) = rendered()[:2]
    deployment["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(AssertionError):
        known("V1Deployment", deployment)


def test_each_service_of_the_chart_is_a_module_that_the_stack_runs_too_and_listens_by_its_connection():
    run = (ROOT / "include" / "adin" / "stack" / "services.py").read_text()
    assert services
    for made, service in zip(rendered()[::2], VALUES["services"].values(), strict=True):
        assert f'"{service["module"]}"' in run and find_spec(service["module"])
        assert service["connection"] in (*NAMES, "push")
        container = made["spec"]["template"]["spec"]["containers"][0]
        told = {each["name"]: each.get("value", "") for each in container["env"]}
        uri = told[f"ADIN_CONN_{service['connection'].upper()}"].replace("$(TOKEN)", "a-token")
        conn = Connection.from_uri(service["connection"], uri)
        assert (conn.host, conn.port, conn.password) == ("0.0.0.0", service["port"], "a-token")


def test_pods_inside_other_kinds_are_known_to_the_api():
    known("V1PodSpec", manifest("notebook")["spec"]["template"]["spec"])
    predictor = manifest("inference-service")["spec"]["predictor"]
    known("V1PodSpec", {"containers": predictor["containers"]})
    for part in ("driver", "executor"):
        for source in manifest("spark-application")["spec"][part]["envFrom"]:
            known("V1EnvFromSource", source)


def test_the_inference_service_is_known_to_kserve():
    from kserve import V1beta1PredictorSpec
    from kubernetes.client import ApiClient

    predictor = manifest("inference-service")["spec"]["predictor"]
    names = set(V1beta1PredictorSpec.attribute_map.values())
    assert set(predictor) <= names
    assert ApiClient and manifest("inference-service")["apiVersion"] == "serving.kserve.io/v1beta1"


def test_all_workloads_use_the_image_of_the_pipelines_ask_for_resources_and_take_secrets_by_name():
    from adin.pipelines.training import IMAGE

    assert katib.IMAGE == IMAGE and VALUES["secret"] == katib.SECRET
    for name, container in containers().items():
        assert container["image"] == (AIRFLOW_IMAGE if name == "adin-push" else IMAGE), name
        assert container["resources"]["requests"]["memory"], name
        assert container["envFrom"] == [{"secretRef": {"name": VALUES["secret"]}}], name
    for path in [*DEPLOY.rglob("*.yaml"), COMPOSE / "docker-compose.yaml"]:
        assert not re.search(r"(?i)(password|secret_key|token): [\"']?[a-z0-9]{8,}", path.read_text()), path


def test_the_images_are_built_from_the_locks_and_hold_the_code():
    for name, lock in {"ml": "requirements-ml.lock", "airflow": "requirements.lock"}.items():
        text = (ROOT / "deploy" / "images" / f"{name}.Dockerfile").read_text()
        assert f"--require-hashes -r {lock}" in text
        assert re.search(r"^USER \d+$", text, re.MULTILINE)
        for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
            assert all((ROOT / each).exists() for each in source.split()), source


def test_the_spark_application_runs_a_file_that_spark_submit_receives():
    spec = manifest("spark-application")["spec"]
    path = spec["mainApplicationFile"].removeprefix("local:///opt/adin/")
    assert (ROOT / path).is_file()
    (arguments,) = map(json.loads, spec["arguments"])
    assert set(arguments) == {"key", "result", "domain", "view", "window"}
    assert set(spec["sparkConf"]) < set(re.findall(r'"(spark\.[\w.]+)"', Path(jobs.__file__).read_text()))
    assert f"pyspark=={spec['sparkVersion']}\n" in (ROOT / "requirements.txt").read_text()


def test_airflows_values_name_the_version_that_is_locked():
    values = manifest("airflow-values")
    assert f"apache-airflow=={values['airflowVersion']}\n" in (ROOT / "requirements.txt").read_text()
    assert (ROOT / "dags").is_dir() and values["config"]["core"]["dags_folder"] == "/opt/adin/dags"


def test_the_compose_file_has_every_connection_and_each_leads_to_a_service_that_listens_there():
    read = yaml.safe_load((COMPOSE / "docker-compose.yaml").read_text())
    made, started = read["x-adin"], read["services"]
    assert set(made) == {f"ADIN_CONN_{name.upper()}" for name in NAMES}
    names = re.findall(r"\$\{(\w+)\}", (COMPOSE / "docker-compose.yaml").read_text())
    given = {name: f"{name.lower().replace('_', '-')}" for name in names}
    for name in NAMES:
        conn = Connection.from_uri(name, Template(made[f"ADIN_CONN_{name.upper()}"]).substitute(given))
        if name == "spark":
            assert conn.host == "local[2]"
            places = [conn.extra[name] for name in ("namenode", "metastore", "warehouse")]
        else:
            places = [f"//{conn.host}:{conn.port}"]
        places += [conn.extra["registry"]] if name == "feast" else []
        for place in places:
            host, port = re.search(r"([\w-]+):(\d+)(/|$)", place).groups()[:2]
            assert port in started[host]["expose"], (name, place)


def test_the_compose_file_pins_images_publishes_on_loopback_only_and_makes_the_databases_it_names():
    text = (COMPOSE / "docker-compose.yaml").read_text()
    read = yaml.safe_load(text)
    for name, service in read["services"].items():
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for other in service.get("depends_on", []):
            assert other in read["services"]
    databases = set(re.findall(r"CREATE DATABASE (\w+);", (COMPOSE / "databases.sql").read_text()))
    assert set(re.findall(r"postgres:5432/(\w+)", text)) <= databases
    assert "UNTESTED" in text
