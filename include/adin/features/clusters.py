"""Clusters that run a Spark job's driver themselves, so that no process of ours stays while the job goes.

An application carries the run key where its cluster can be searched for it: as YARN's tag, as a label in Kubernetes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from adin.connections import Connection, connection, declared
from adin.errors import AdinError, ConfigError, NotFoundError, RunFailedError, ServiceError, UnreachableError
from adin.features.spark_submit import spark_submit
from adin.kubernetes_objects import RUN_KEY, CustomObjects
from adin.limits import Limits, guarded
from adin.settings import ROOT, settings

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"

#: What YARN unpacks beside a job; the user's own archives are kept.
_ARCHIVES = "spark.yarn.dist.archives"
#: Services a driver or an executor may ask.
_SERVICES = ("spark", "feast", "s3")


class Cluster(Protocol):
    """Where drivers run."""

    #: The cluster's words for an application's state.
    states: ClassVar[Mapping[str, str]]

    def submit(self, key: str, conf: Mapping[str, str], job: str, payload: str) -> str:
        """Start a job under a run key and return the application's id.

        :param conf: Spark's properties.
        :param job: name of the script in ``include/spark``.
        :param payload: the script's one argument.
        """

    def find(self, key: str) -> str | None:
        """Return the newest application under a run key that goes or has succeeded."""

    def state(self, application: str) -> str:
        """Return the cluster's word for how it stands; :raises NotFoundError: the cluster knows it no more."""

    def said(self, application: str) -> str:
        """Return what the cluster says of how it ended."""

    def cancel(self, application: str) -> None:
        """Stop it; one that has ended stays as it is."""

    def link(self, application: str) -> str:
        """Return the address of its page; empty where it has none."""


def of(conn: Connection) -> Cluster | None:
    """Return the cluster that runs the drivers of a connection's jobs; None where a driver is a child of its task.

    :raises ConfigError: the master runs no drivers in Python.
    """
    if conn.host.startswith("local") or conn.extra.get("deploy_mode", "client") != "cluster":
        return None
    if conn.host == "yarn":
        return Yarn(conn)
    if conn.host.startswith("k8s://"):
        return Kubernetes(conn)
    raise ConfigError(
        f"Connection spark: {conn.host} runs no driver written in Python.",
        "Set deploy_mode to client, or the master to yarn or k8s://.",
    )


class Yarn:
    """Applications of YARN: submitted by spark-submit, which does not wait, then asked for at the resource manager.

    What the job needs of ours (code, feature repository, problems) travels with it; Python and its packages must be on
    the nodes. Source of the requests: Hadoop's "ResourceManager REST API's".

    :param conn: the extras ``resourcemanager``, http(s)://host:port, and ``python``, the interpreter on the nodes,
        default this one's path. What the client must know of YARN stands in its ``conf`` under ``spark.hadoop.yarn``.
    """

    states: ClassVar[Mapping[str, str]] = {
        "NEW": RUNNING,
        "NEW_SAVING": RUNNING,
        "SUBMITTED": RUNNING,
        "ACCEPTED": RUNNING,
        "RUNNING": RUNNING,
        "FINAL_SAVING": RUNNING,
        "FINISHING": RUNNING,
        "KILLING": RUNNING,
        "SUCCEEDED": SUCCEEDED,
        "FAILED": FAILED,
        "KILLED": FAILED,
        "ENDED": FAILED,
    }

    def __init__(self, conn: Connection) -> None:
        import urllib3

        where = urlsplit(str(conn.extra.get("resourcemanager", "")))
        if not where.hostname:
            raise ConfigError(
                "Connection spark: no resourcemanager.", "Set http://host:port of YARN's resource manager."
            )
        self._extra = conn.extra
        self._conn = replace(
            conn, host=where.hostname, port=where.port, extra={**conn.extra, "scheme": where.scheme or "http"}
        )
        limits = Limits.of(conn)
        self._http = urllib3.PoolManager(
            maxsize=limits.pool, timeout=urllib3.Timeout(*limits.timeouts), retries=limits.repeats()
        )

    def submit(self, key: str, conf: Mapping[str, str], job: str, payload: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            archives = [f"{_code(Path(folder))}#adin", *filter(None, [conf.get(_ARCHIVES)])]
            told = {
                # one try: the next is the task's
                "spark.yarn.maxAppAttempts": "1",
                "spark.yarn.tags": key,
                "spark.yarn.submit.waitAppCompletion": "false",
                "spark.pyspark.python": str(self._extra.get("python") or sys.executable),
                # connections go by the environment
                "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|ADIN_CONN",
            }
            path = {"PYTHONPATH": "adin/include:adin/include/spark"}
            for name, value in {**_environment(), **path}.items():
                told[f"spark.yarn.appMasterEnv.{name}"] = told[f"spark.executorEnv.{name}"] = value
            options = ["--master", "yarn", "--deploy-mode", "cluster", "--name", key]
            given = {**told, **conf, _ARCHIVES: ",".join(archives)}
            status, log = spark_submit(options, given, ROOT / "include" / "spark" / f"{job}.py", payload)
        if found := self.find(key):
            return found
        tail = "\n".join(log.splitlines()[-15:])
        if status and "Exception" not in tail:
            raise RunFailedError(f"spark-submit of {key} ended with code {status}:\n{tail}")
        raise ServiceError(f"YARN has no application {key} after spark-submit ended with code {status}:\n{tail}")

    def find(self, key: str) -> str | None:
        found = self._ask("GET", f"apps?applicationTags={key}").get("apps") or {}
        good = [app for app in found.get("app", ()) if self.states.get(_word(app)) != FAILED]
        return str(max(good, key=lambda app: app["startedTime"])["id"]) if good else None

    def state(self, application: str) -> str:
        return _word(self._ask("GET", f"apps/{application}")["app"])

    def said(self, application: str) -> str:
        return str(self._ask("GET", f"apps/{application}")["app"].get("diagnostics") or "").strip()

    def cancel(self, application: str) -> None:
        self._ask("PUT", f"apps/{application}/state", {"state": "KILLED"})

    def link(self, application: str) -> str:
        return f"{self._conn.url}/cluster/app/{application}"

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        from urllib3.exceptions import HTTPError

        with guarded(self._conn, UnreachableError):
            try:
                answer = self._http.request(method, f"{self._conn.url}/ws/v1/cluster/{path}", json=body)
            except HTTPError as error:
                raise UnreachableError(f"YARN at {self._conn.url} does not answer: {error}.", "Is it up?") from None
        if answer.status < 400:
            return dict(json.loads(answer.data)) if answer.data else {}
        kinds: dict[int, type[AdinError]] = {401: ConfigError, 403: ConfigError, 404: NotFoundError}
        raise kinds.get(answer.status, ServiceError)(f"YARN at {self._conn.url} answered {answer.status} to {path}.")


def _word(app: Mapping[str, Any]) -> str:
    """Return how an application stands: of one that is over, what it made of itself."""
    if app["state"] != "FINISHED":
        return str(app["state"])
    return "ENDED" if app["finalStatus"] == "UNDEFINED" else str(app["finalStatus"])


class Kubernetes:
    """The Spark operator's SparkApplications; the image has our code and its packages (``deploy/images``).

    :param conn: the master ``k8s://https://host:port`` with a token as password; without one, the client's own
        configuration of the pod or the user is taken. Extras: ``namespace``, default ``default``; ``image``;
        ``application``, what else the specification is to have (driver, executor, ..), merged into ours.
    """

    states: ClassVar[Mapping[str, str]] = {
        "NEW": RUNNING,
        "SUBMITTED": RUNNING,
        "RUNNING": RUNNING,
        "SUSPENDING": RUNNING,
        "SUSPENDED": RUNNING,
        "RESUMING": RUNNING,
        "INVALIDATING": RUNNING,
        "PENDING_RERUN": RUNNING,
        "SUCCEEDING": RUNNING,
        # the operator goes on to FAILED by itself: no restart is asked for
        "SUBMISSION_FAILED": RUNNING,
        "FAILING": RUNNING,
        "COMPLETED": SUCCEEDED,
        "FAILED": FAILED,
    }
    _KIND = ("sparkoperator.k8s.io", "v1beta2", "sparkapplications", "SparkApplication")

    def __init__(self, conn: Connection) -> None:
        self._extra = conn.extra
        namespace = str(conn.extra.get("namespace", "default"))
        self._objects = CustomObjects(_client(conn), self._KIND, namespace, Limits.of(conn))

    def submit(self, key: str, conf: Mapping[str, str], job: str, payload: str) -> str:
        """Start it under a name that counts the tries, so that of two who do so at once one is refused."""
        tries = [int(each["metadata"]["name"].rpartition("-")[2]) for each in self._objects.find(key)]
        name = f"adin-{key[-16:]}-{max(tries, default=0) + 1}"
        made = self._objects.create(name, self._spec(conf, job, payload), {RUN_KEY: key})
        return str(made["metadata"]["name"])

    def find(self, key: str) -> str | None:
        good = [each for each in self._objects.find(key) if self.states.get(_status(each)[0]) != FAILED]
        if not good:
            return None
        return str(max(good, key=lambda each: str(each["metadata"]["creationTimestamp"]))["metadata"]["name"])

    def state(self, application: str) -> str:
        found = self._objects.get(application)
        if found["metadata"].get("deletionTimestamp"):
            raise NotFoundError(f"SparkApplication {application} is being deleted.")
        return _status(found)[0]

    def said(self, application: str) -> str:
        return _status(self._objects.get(application))[1]

    def cancel(self, application: str) -> None:
        """Delete it; the operator deletes its pods."""
        found = self._objects.get(application)
        if self.states.get(_status(found)[0]) != SUCCEEDED:
            self._objects.delete(application)

    def link(self, application: str) -> str:
        return ""

    def _spec(self, conf: Mapping[str, str], job: str, payload: str) -> dict[str, Any]:
        if not self._extra.get("image"):
            raise ConfigError("Connection spark: no image.", "Set the image of deploy/images that has our code.")
        pod = {"cores": 1, "memory": settings().spark_driver_memory, "envFrom": [{"secretRef": {"name": _CONNECTIONS}}]}
        ours = {
            "type": "Python",
            "mode": "cluster",
            "pythonVersion": "3",
            "sparkVersion": version("pyspark"),
            "image": str(self._extra["image"]),
            "mainApplicationFile": f"local:///opt/adin/include/spark/{job}.py",
            "arguments": [payload],
            "sparkConf": dict(conf),
            "restartPolicy": {"type": "Never"},
            "timeToLiveSeconds": 86400,
            "driver": pod,
            "executor": {**pod, "instances": 2},
        }
        return _merged(ours, self._extra.get("application") or {})


#: The Kubernetes secret with the connections, as ``deploy/kubernetes`` has it.
_CONNECTIONS = "adin-connections"


def _status(found: Mapping[str, Any]) -> tuple[str, str]:
    told = (found.get("status") or {}).get("applicationState") or {}
    return str(told.get("state") or "NEW"), str(told.get("errorMessage") or "")


def _client(conn: Connection) -> Any:
    from kubernetes import client, config

    if not conn.password:
        made = client.Configuration()
        config.load_config(client_configuration=made)
        return client.ApiClient(made)
    made = client.Configuration(host=conn.host.removeprefix("k8s://"))
    made.api_key = {"authorization": f"Bearer {conn.password}"}
    made.ssl_ca_cert = conn.extra.get("ca") or None
    return client.ApiClient(made)


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping in which, at every depth, theirs takes the place of ours."""
    found = dict(ours)
    for name, value in theirs.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = _merged(found[name], value) if both else value
    return found


def _environment() -> dict[str, str]:
    """Return what a driver on another machine needs of ours: settings that are no paths of this one, connections."""
    paths = {
        f"ADIN_{name.upper()}" for name, field in type(settings()).model_fields.items() if field.annotation is Path
    }
    own = {name: value for name, value in os.environ.items() if name.startswith("ADIN_") and name not in paths}
    conns = {f"ADIN_CONN_{name.upper()}": connection(name).uri for name in _SERVICES if declared(name)}
    kept = {name: value for name, value in own.items() if not name.startswith("ADIN_CONN_")}
    return {**kept, **conns, "TZ": "UTC", "PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "ignore"}


def _code(folder: Path) -> Path:
    """Pack our code, the feature repository and the problems as they lie below the root of the project."""
    sources = {
        ROOT / "include" / "adin": "include/adin",
        ROOT / "include" / "spark": "include/spark",
        settings().problems: "include/problems",
        settings().feature_repo: "feature_repo",
    }
    target = folder / "adin.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for source, name in sources.items():
            for path in sorted(source.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    packed.write(path, f"{name}/{path.relative_to(source)}")
    return target
