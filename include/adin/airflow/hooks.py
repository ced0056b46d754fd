"""Airflow connections as the SDK's connections, and a test for each that answers within its timeout.

A task calls :func:`activate` first: from then on the SDK in that process uses Airflow's connections and nothing else.
"""

from __future__ import annotations

import contextlib
from typing import Any

from airflow.sdk import BaseHook

from adin.connections import NAMES, Connection, use
from adin.settings import settings


def activate(*names: str) -> None:
    """Let the SDK in this process use the Airflow connections ``<name>_default``; default all of them."""
    for name in names or NAMES:
        use(from_airflow(name, BaseHook.get_connection(f"{name}_default")))


def from_airflow(name: str, found: Any) -> Connection:
    """Return an Airflow connection as the SDK's."""
    return Connection(
        name=name,
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        schema=found.schema or "",
        extra=found.extra_dejson,
    )


class AdinHook(BaseHook):
    """Base of the hooks: one connection, and a test of it.

    :param conn_id: Airflow connection; default ``<name>_default``.
    """

    name = ""

    def __init__(self, conn_id: str | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id or f"{self.name}_default"

    def get_conn(self) -> Connection:
        """Return the SDK's connection."""
        return from_airflow(self.name, self.get_connection(self.conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Ask the service something small; the answer or the fault within the connect timeout."""
        conn = self.get_conn()
        try:
            use(conn)
            return True, self.probe(conn)
        except Exception as error:  # a button shows whatever is wrong
            return False, str(error)[:500]

    def probe(self, conn: Connection) -> str:
        """Ask the service and return what it said."""
        return _get(conn, "/")


def _get(conn: Connection, path: str) -> str:
    import httpx

    headers = {"Authorization": f"Bearer {conn.password}"}
    answer = httpx.get(f"{conn.url}{path}", headers=headers, timeout=settings().connect_timeout)
    answer.raise_for_status()
    return f"{conn.url} answers {answer.status_code}"


class SparkHook(AdinHook):
    """Spark, with the HDFS and Hive metastore its jobs work on."""

    name = "spark"

    def probe(self, conn: Connection) -> str:
        from adin.features import hdfs, hive

        raw = hdfs.exists(settings().raw_root)
        tables = hive.tables("default")
        return (
            f"HDFS answers ({'with' if raw else 'no'} {settings().raw_root}), metastore answers ({len(tables)} tables)"
        )


class FeastHook(AdinHook):
    """Feast's registry and its online store."""

    name = "feast"

    def probe(self, conn: Connection) -> str:
        from redis import Redis
        from sqlalchemy import create_engine, text

        with Redis(
            conn.host, conn.port or 6379, password=conn.password, socket_timeout=settings().connect_timeout
        ) as redis:
            redis.ping()
        engine = create_engine(str(conn.extra["registry"]), connect_args={"connect_timeout": 5})
        with contextlib.closing(engine.connect()) as connection:
            connection.execute(text("SELECT 1"))
        return "Redis answers, registry answers"


class LakefsHook(AdinHook):
    """lakeFS."""

    name = "lakefs"

    def probe(self, conn: Connection) -> str:
        from adin.datasets.lake import Lake

        return f"repository {conn.schema}, main at {Lake(conn).resolve('main')[:12]}"


class ClickhouseHook(AdinHook):
    """ClickHouse."""

    name = "clickhouse"

    def probe(self, conn: Connection) -> str:
        from adin.datasets.clickhouse import clickhouse

        with clickhouse(conn) as client:
            return f"ClickHouse {client.command('SELECT version()')}"


class KfpHook(AdinHook):
    """Kubeflow Pipelines."""

    name = "kfp"

    def probe(self, conn: Connection) -> str:
        return _get(conn, "/apis/v2beta1/experiments")


class KserveHook(AdinHook):
    """The KServe model server."""

    name = "kserve"

    def probe(self, conn: Connection) -> str:
        return _get(conn, "/v1/models")


class S3Hook(AdinHook):
    """The object store."""

    name = "s3"

    def probe(self, conn: Connection) -> str:
        import urllib3
        from minio import Minio

        http = urllib3.PoolManager(timeout=settings().connect_timeout, retries=False)
        secure = conn.extra.get("scheme") == "https"
        client = Minio(
            f"{conn.host}:{conn.port}",
            access_key=conn.login,
            secret_key=conn.password,
            secure=secure,
            region=conn.extra.get("region"),
            http_client=http,
        )
        return f"{len(list(client.list_buckets()))} buckets"


class AmversionHook(AdinHook):
    """The model registry."""

    name = "amversion"

    def probe(self, conn: Connection) -> str:
        from adin.models import registry

        return f"{len(registry(conn).models())} models"
