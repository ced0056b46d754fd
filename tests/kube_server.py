"""A real Kubernetes API server with its store, and the definitions of KServe's and the Spark operator's resources.

Nodes and controllers are not there: what a controller would write to an object's status, a test writes itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from adin.connections import Connection
from adin.settings import ROOT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from redis_server import free_port
from waiting import until

_WHERE = "import bootstrap; bootstrap.tools(); print(bootstrap.kubernetes_api())"
TOKEN = "a-token-of-the-tests"
#: The Notebook's definition is in no module that can be had: its pod is checked by the API's own type.
NOTEBOOK = {
    "metadata": {"name": "notebooks.kubeflow.org"},
    "spec": {
        "group": "kubeflow.org",
        "names": {"kind": "Notebook", "plural": "notebooks"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def programs() -> Path:
    """Build or fetch what is needed, once a machine; return its folder."""
    done = subprocess.run(
        [sys.executable, "-c", _WHERE], cwd=ROOT, check=True, timeout=1800, capture_output=True, text=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


@contextmanager
def kubernetes(folder: Path) -> Iterator[Connection]:
    """Yield the connection of an API server that knows all definitions; its password is an administrator's token."""
    found = programs()
    store, peer, port = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    etcd = [
        found / "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{store}",
        f"--advertise-client-urls=http://127.0.0.1:{store}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]
    server = [
        found / "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{store}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://localhost",
        f"--service-account-key-file={folder / 'key.pem'}",
        f"--service-account-signing-key-file={folder / 'key.pem'}",
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
    ]
    conn = Connection("kubernetes", "127.0.0.1", port, password=TOKEN, extra={"scheme": "https"})
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in (("etcd", etcd), ("server", server)):
            with (folder / f"{name}.log").open("wb") as log:
                running.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))
        until(lambda: _well(conn, running), seconds=120)
        for definition in [*_definitions(found), NOTEBOOK]:
            _define(conn, definition)
        yield conn
    finally:
        for process in reversed(running):
            process.kill()
            process.wait(30)


def client(conn: Connection) -> Any:
    """Return a signed-in ``kubernetes.client.ApiClient``."""
    from kubernetes import client as kube

    config = kube.Configuration(host=conn.url)
    config.api_key = {"authorization": f"Bearer {conn.password}"}
    config.verify_ssl = False
    return kube.ApiClient(config)


def ask(conn: Connection, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
    """Return the answer to a request; raises the client's ``ApiException`` where it is refused."""
    headers = {"Accept": "application/json", "Content-Type": kind}
    answer = client(conn).call_api(
        path, method, header_params=headers, body=body, auth_settings=["BearerToken"], _preload_content=False
    )
    return json.loads(answer.data)


def apply(conn: Connection, document: dict[str, Any], plural: str, *, rehearse: bool = True) -> dict[str, Any]:
    """Apply an object on the server's side; fields the server does not know are an error."""
    version = document["apiVersion"]
    root = "/api" if "/" not in version else "/apis"
    more = "&dryRun=All" if rehearse else ""
    path = f"{root}/{version}/namespaces/default/{plural}/{document['metadata']['name']}"
    path += f"?fieldManager=test&fieldValidation=Strict{more}"
    return dict(ask(conn, "PATCH", path, document, kind="application/apply-patch+yaml"))


def _well(conn: Connection, running: list[subprocess.Popen[bytes]]) -> bool:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    assert all(process.poll() is None for process in running), "see etcd.log and server.log"
    try:
        client(conn).call_api("/readyz", "GET", auth_settings=["BearerToken"], _preload_content=False)
    except (ApiException, HTTPError, urllib.error.URLError):
        return False
    return True


def _definitions(found: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((found / "definitions").iterdir()):
        definition = yaml.safe_load(path.read_text())
        definition["spec"].pop("conversion", None)  # it asks a controller
        yield definition


def _define(conn: Connection, definition: dict[str, Any]) -> None:
    root = "/apis/apiextensions.k8s.io/v1"
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"} | definition
    ask(conn, "POST", f"{root}/customresourcedefinitions", body)
    name = definition["metadata"]["name"]

    def served() -> bool:
        status = ask(conn, "GET", f"{root}/customresourcedefinitions/{name}").get("status") or {}
        return ("Established", "True") in [(each["type"], each["status"]) for each in status.get("conditions") or ()]

    until(served, seconds=90)
