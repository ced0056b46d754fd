"""What Airflow reads to know our connection types: one a service, each with its form."""

from __future__ import annotations

from typing import Any

_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_SECRET: dict[str, Any] = {"type": ["string", "null"], "format": "password"}
_FLAG: dict[str, Any] = {"type": ["boolean", "null"], "default": False}


def _choice(*values: str) -> dict[str, Any]:
    return {"type": ["string", "null"], "enum": list(values), "default": values[0]}


def _number(least: float = 0, *, whole: bool = False) -> dict[str, Any]:
    return {"type": ["integer" if whole else "number", "null"], "minimum": least}


_TIMES = {
    "connect_timeout": ("Connect timeout", _number(), "Seconds to open a connection. Empty: ADIN_CONNECT_TIMEOUT, 5."),
    "read_timeout": ("Read timeout", _number(), "Seconds to wait for an answer. Empty: ADIN_READ_TIMEOUT, 60."),
    "pool": ("Pool", _number(1, whole=True), "Connections kept open, and requests at a time. Empty: 16."),
}
#: See :class:`adin.limits.Limits`.
_LIMITS = _TIMES | {
    "retries": ("Retries", _number(whole=True), "Repeats of what changes nothing, on 429, 502 to 504. Empty: 4."),
    "backoff": (
        "Back-off",
        _number(),
        "Seconds before the second repeat, doubled before each further one. Empty: 0.2.",
    ),
    "rate": ("Rate", _number(), "Requests a second; more of them wait. Empty: no limit."),
    "breaker_failures": (
        "Breaker: failures",
        _number(whole=True),
        "Calls that fail in a row until further ones fail at once. 0: never. Empty: 20.",
    ),
    "breaker_seconds": ("Breaker: seconds", _number(), "Until one call is let through again. Empty: 5."),
}
#: Of clients that pause between repeats as they see fit.
_LIMITS_OF_THEIRS = {name: field for name, field in _LIMITS.items() if name != "backoff"}
_SCHEME = {"scheme": ("Scheme", _choice("http", "https"), "")}

#: Form of each type: its name, renamed fields, hidden fields, and fields of its own with their help.
_FORMS: dict[str, tuple[str, dict[str, str], list[str], dict[str, tuple[str, dict[str, Any], str]]]] = {
    "spark": (
        "Adin Spark and Hive",
        {"host": "Master", "password": "Kubernetes token"},
        ["login", "schema", "port"],
        {
            "namenode": ("HDFS", _TEXT, "hdfs://host:port"),
            "metastore": ("Hive metastore", _TEXT, "thrift://host:port"),
            "warehouse": ("Warehouse", _TEXT, "HDFS folder of Hive tables, hdfs://host:port/folder"),
            "deploy_mode": (
                "Deploy mode",
                _choice("client", "cluster"),
                "Where the driver runs: with the task, or in YARN or Kubernetes, where no worker waits for it.",
            ),
            "resourcemanager": ("YARN: resource manager", _TEXT, "Cluster mode: http(s)://host:port of its web API."),
            "python": ("YARN: Python", _TEXT, "Path on the nodes of a Python with our packages. Empty: as here."),
            "namespace": ("Kubernetes: namespace", _TEXT, "Cluster mode: of the SparkApplications. Empty: default."),
            "image": ("Kubernetes: image", _TEXT, "Cluster mode: the image that has our code."),
            "ca": ("Kubernetes: CA", _TEXT, "File of the certificate authority. Empty: the system's."),
            **_LIMITS,
        },
    ),
    "feast": (
        "Adin Feast",
        {"host": "Redis host", "port": "Redis port", "login": "Redis user", "password": "Redis password"},
        ["schema"],
        {
            "registry": (
                "Registry",
                _SECRET,
                "postgresql+psycopg://user:password@host:port/database, or s3://bucket/key in the store of s3_default",
            ),
            "offline": (
                "Offline store",
                _SECRET,
                "PostgreSQL edition only: postgresql://user:password@host:port/database",
            ),
            "mode": (
                "Mode",
                _choice("single", "cluster", "servers"),
                "One Redis, a Redis Cluster, independent servers.",
            ),
            "nodes": ("Further nodes", _TEXT, "host:port,host:port; of a cluster some are enough."),
            "tls": ("TLS to Redis", _FLAG, ""),
            "ca_file": ("CA file", _TEXT, "Certificates to trust; empty for the system's."),
        },
    ),
    "lakefs": (
        "Adin lakeFS",
        {"login": "Access key", "password": "Secret key", "schema": "Repository"},
        [],
        _SCHEME | _LIMITS,
    ),
    "clickhouse": (
        "Adin ClickHouse",
        {"schema": "Database"},
        [],
        _SCHEME | {"ui": ("Web UI", _TEXT, "Address of its play page, for the link on a task.")} | _LIMITS_OF_THEIRS,
    ),
    "kfp": (
        "Adin Kubeflow Pipelines",
        {"password": "Bearer token"},
        ["login", "schema"],
        _SCHEME
        | {
            "namespace": ("Namespace", _TEXT, "Profile of a multi-user Kubeflow; empty for one user."),
            "token_file": ("Token file", _TEXT, "Read anew for each request, instead of the token."),
            "ca_file": ("CA file", _TEXT, "Certificates to trust."),
            "ui": ("Web UI", _TEXT, "Its address, if it differs from the API's."),
        }
        | _LIMITS,
    ),
    "kserve": ("Adin KServe", {"password": "Bearer token"}, ["login", "schema"], _SCHEME | _LIMITS_OF_THEIRS),
    "s3": (
        "Adin S3",
        {"login": "Access key", "password": "Secret key"},
        ["schema"],
        _SCHEME | {"region": ("Region", _TEXT, "Default us-east-1.")} | _TIMES,
    ),
    "amversion": (
        "Adin AMVersion",
        {"schema": "Database, or bucket"},
        [],
        {"edition": ("Edition", _choice("database", "files"), "PostgreSQL, or files in the object store.")},
    ),
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, as Airflow's schema wants it."""
    return {
        "package-name": "adin-mlops",
        "name": "Adin MLOps",
        "description": "From raw data in HDFS to a model under load.",
        "versions": ["0.1.0"],
        "connection-types": [_form(name, *form) for name, form in _FORMS.items()],
    }


def _form(
    name: str,
    title: str,
    renamed: dict[str, str],
    hidden: list[str],
    own: dict[str, tuple[str, dict[str, Any], str]],
) -> dict[str, Any]:
    fields = {
        field: {"label": label, "schema": schema, **({"description": told} if told else {})}
        for field, (label, schema, told) in own.items()
    }
    return {
        "connection-type": f"adin_{name}",
        "hook-class-name": f"adin.airflow.hooks.{name.capitalize()}Hook",
        "hook-name": title,
        "ui-field-behaviour": {"hidden-fields": hidden, "relabeling": renamed, "placeholders": {}},
        "conn-fields": fields,
    }
