"""What Airflow reads to know our connection types: one a service, each with its form."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": ["string", "null"]}

#: Form of each type: its name, renamed fields, hidden fields, and fields of its own.
_FORMS: dict[str, tuple[str, dict[str, str], list[str], dict[str, str]]] = {
    "spark": (
        "Adin Spark and Hive",
        {"host": "Master"},
        ["login", "password", "schema", "port"],
        {
            "namenode": "HDFS address, hdfs://host:port",
            "metastore": "Hive metastore, thrift://host:port",
            "warehouse": "HDFS folder of Hive tables",
            "deploy_mode": "client or cluster",
        },
    ),
    "feast": (
        "Adin Feast",
        {"host": "Redis host", "port": "Redis port", "password": "Redis password"},
        ["login", "schema"],
        {"registry": "Registry, as an SQLAlchemy URL"},
    ),
    "lakefs": (
        "Adin lakeFS",
        {"login": "Access key", "password": "Secret key", "schema": "Repository"},
        [],
        {"scheme": "http or https"},
    ),
    "clickhouse": ("Adin ClickHouse", {"schema": "Database"}, [], {"scheme": "http or https"}),
    "kfp": (
        "Adin Kubeflow Pipelines",
        {"password": "Bearer token"},
        ["login", "schema"],
        {"scheme": "http or https", "namespace": "Kubeflow namespace"},
    ),
    "kserve": ("Adin KServe", {"password": "Bearer token"}, ["login", "schema"], {"scheme": "http or https"}),
    "s3": (
        "Adin S3",
        {"login": "Access key", "password": "Secret key"},
        ["schema"],
        {"scheme": "http or https", "region": "Region"},
    ),
    "amversion": (
        "Adin AMVersion",
        {"schema": "Database, or bucket"},
        [],
        {"edition": "database (Postgres) or files (S3)"},
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


def _form(name: str, title: str, relabel: dict[str, str], hidden: list[str], own: dict[str, str]) -> dict[str, Any]:
    return {
        "connection-type": f"adin_{name}",
        "hook-class-name": f"adin.airflow.hooks.{name.capitalize()}Hook",
        "hook-name": title,
        "ui-field-behaviour": {"hidden-fields": hidden, "relabeling": relabel, "placeholders": {}},
        "conn-fields": {field: {"label": label, "schema": _TEXT} for field, label in own.items()},
    }
