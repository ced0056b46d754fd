"""The stack's passwords: made at random for each home, kept in two files only their owner can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

from adin.connections import Connection
from adin.settings import settings
from adin.stack.layout import HOST, home, monitored, port

_NAMES = (
    "postgres",
    "redis",
    "s3_key",
    "s3_secret",
    "lakefs_key",
    "lakefs_secret",
    "lakefs_encrypt",
    "clickhouse",
    "kfp",
    "kserve",
    "push",
    "airflow_admin",
    "airflow_viewer",
    "airflow_jwt",
    "airflow_secret",
    "airflow_fernet",
    "supervisor",
)


def credentials() -> dict[str, str]:
    """Return this home's credentials; the first call makes them."""
    path = home() / "credentials.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    missing = {name: _random(name) for name in _NAMES if name not in known}
    if missing:
        known |= missing
        write_private(path, json.dumps(known, indent=2))
    return known


def connections() -> list[Connection]:
    """Return the connection of each service of the stack."""
    made = credentials()
    hdfs = f"hdfs://{HOST}:{port('namenode')}"
    return [
        Connection(
            "spark",
            "local[2]",
            extra={
                "namenode": hdfs,
                "metastore": f"thrift://{HOST}:{port('metastore')}",
                "warehouse": f"{hdfs}/warehouse",
                "deploy_mode": "client",
                "conf": {},
            },
        ),
        Connection(
            "feast",
            HOST,
            port("redis"),
            password=made["redis"],
            extra={
                "registry": f"postgresql+psycopg://adin:{made['postgres']}@{HOST}:{port('postgres')}/feast",
                "offline": f"postgresql://adin:{made['postgres']}@{HOST}:{port('postgres')}/features",
            },
        ),
        Connection(
            "lakefs",
            HOST,
            port("lakefs"),
            made["lakefs_key"],
            made["lakefs_secret"],
            settings().dataset_repository,
        ),
        Connection("clickhouse", HOST, port("clickhouse"), "adin", made["clickhouse"], "datasets"),
        Connection("kfp", HOST, port("kfp"), password=made["kfp"]),
        Connection("kserve", HOST, port("kserve"), password=made["kserve"]),
        Connection("s3", HOST, port("s3"), made["s3_key"], made["s3_secret"], extra={"region": "us-east-1"}),
        Connection("amversion", HOST, port("postgres"), "adin", made["postgres"], "amversion", {"edition": "database"}),
    ]


def outside() -> list[Connection]:
    """Return the connections that only people and services outside Airflow use."""
    made = credentials()
    database = f"postgresql://adin:{made['postgres']}@{HOST}:{port('postgres')}/push"
    return [
        Connection("push", HOST, port("push"), password=made["push"], extra={"database": database}),
        Connection("airflow", HOST, port("airflow"), "admin", made["airflow_admin"]),
    ]


def write() -> None:
    """Write ``secrets.env`` for the SDK and ``connections.json`` for Airflow's import."""
    found = connections()
    alertmanager = [Connection("alertmanager", HOST, port("alertmanager"))] if monitored() else []
    lines = [f"ADIN_CONN_{conn.name.upper()}={conn.uri}" for conn in (*found, *outside(), *alertmanager)]
    write_private(home() / "secrets.env", "\n".join(["# made by `adin stack up`", *lines]) + "\n")
    for_airflow = {
        f"{conn.name}_default": {
            "conn_type": f"adin_{conn.name}",
            "host": conn.host,
            "port": conn.port,
            "login": conn.login,
            "password": conn.password,
            "schema": conn.schema,
            "extra": json.dumps(dict(conn.extra)),
        }
        for conn in found
    }
    write_private(home() / "connections.json", json.dumps(for_airflow, indent=2))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.rename(path)


def _random(name: str) -> str:
    if name == "airflow_fernet":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if name == "push":
        from adin.models.access import new_token

        return new_token()
    return secrets.token_hex(10 if name.endswith("_key") else 32)
