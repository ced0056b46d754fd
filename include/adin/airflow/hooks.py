"""Airflow connections as the SDK's connections, and a test for each that answers within its timeout.

A task calls :func:`activate` first: from then on the SDK in that process uses Airflow's connections and nothing else.
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from adin.connections import NAMES, Connection, trying, use
from adin.errors import ConfigError, ServiceError
from adin.limits import Limits
from adin.settings import settings

#: Longest a test of a connection may take, seconds: some clients try many times before they give up.
_TEST_TIMEOUT = 20


def activate(*names: str) -> None:
    """Let the SDK in this process use the Airflow connections ``<name>_default``; default all of them."""
    for name in names or NAMES:
        use(from_airflow(name, BaseHook.get_connection(f"{name}_default")))


def from_airflow(name: str, found: Any) -> Connection:
    """Return an Airflow connection as the SDK's; secrets within its extra are masked in logs from now on."""
    extra = found.extra_dejson
    for value in extra.values():
        if isinstance(value, str) and (password := _password_in(value)):
            mask_secret(password)
    return Connection(
        name=name,
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        schema=found.schema or "",
        extra=extra,
    )


def _password_in(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None


class AdinHook(BaseHook):
    """Base of the hooks: one connection, and a test of it.

    :param conn_id: Airflow connection; default ``<name>_default``.
    """

    conn_name_attr = "conn_id"
    name = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Declare what Airflow asks of a hook that has a connection type."""
        super().__init_subclass__(**kwargs)
        cls.conn_type = f"adin_{cls.name}"
        cls.default_conn_name = f"{cls.name}_default"
        cls.hook_name = (cls.__doc__ or cls.name).partition("\n")[0].rstrip(".")

    def __init__(self, conn_id: str | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id or f"{self.name}_default"

    def get_conn(self) -> Connection:
        """Return the SDK's connection."""
        return from_airflow(self.name, self.get_connection(self.conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Ask the service something small; return whether it answered, and the answer or the fault, in 20 seconds."""
        outcome = (False, f"No answer within {_TEST_TIMEOUT} seconds.")

        def ask() -> None:
            nonlocal outcome
            try:
                with trying(conn):
                    outcome = True, self.probe(conn)
            except Exception as error:  # a button shows whatever is wrong
                outcome = False, (str(error) or type(error).__name__)[:500]

        try:
            conn = self.get_conn()
        except Exception as error:  # as above
            return False, str(error)[:500]
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_TEST_TIMEOUT)
        return outcome

    def probe(self, conn: Connection) -> str:
        """Ask the service and return what it said."""
        return _get(conn, "/")


def _get(conn: Connection, path: str) -> str:
    import httpx

    headers = {"Authorization": f"Bearer {conn.password}"}
    try:
        answer = httpx.get(f"{conn.url}{path}", headers=headers, timeout=Limits.of(conn).connect_timeout)
    except httpx.HTTPError as error:
        raise ServiceError(f"{conn.url} does not answer: {error}.", "Is it up?") from None
    if answer.is_error:
        raise ConfigError(f"{conn.url}{path} answers {answer.status_code}: {answer.text[:200]}", "Check the token.")
    return f"{conn.url} answers {answer.status_code}"


class SparkHook(AdinHook):
    """Adin Spark and Hive.

    The test asks HDFS and the metastore, on which the jobs work, and the cluster that runs their drivers.
    """

    name = "spark"

    def probe(self, conn: Connection) -> str:
        from adin.features import clusters, hdfs, hive

        raw = "with" if hdfs.exists(settings().raw_root) else "no"
        tables = hive.tables("default")
        said = f"HDFS answers ({raw} {settings().raw_root}), metastore answers ({len(tables)} tables)"
        cluster = clusters.of(conn)
        if cluster is None:
            return said
        cluster.find("no-such-key")
        return f"{said}, {type(cluster).__name__} answers"


class FeastHook(AdinHook):
    """Adin Feast.

    The test asks the online store and the registry.
    """

    name = "feast"

    def probe(self, conn: Connection) -> str:
        from adin.features.shards import Shards
        from adin.features.wire import command

        timeout = settings().connect_timeout
        with Shards(conn) as opened:
            servers = opened.primaries()
            for session in servers:
                session.exchange(command(b"PING"), 1, timeout=timeout)
        said = f"Redis answers ({len(servers)} {'servers' if len(servers) > 1 else 'server'})"
        return f"{said}, {self._registry(str(conn.extra['registry']), timeout)}"

    def _registry(self, where: str, timeout: float) -> str:
        """Ask the registry's bucket or database."""
        if where.startswith("s3://"):
            from adin.models.objects import Bucket

            return f"registry answers: {Bucket(S3Hook().get_conn(), urlsplit(where).netloc).identity()}"
        from sqlalchemy import create_engine, text

        engine = create_engine(where, connect_args={"connect_timeout": int(timeout)})
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
        return "registry answers"


class LakefsHook(AdinHook):
    """Adin lakeFS."""

    name = "lakefs"

    def probe(self, conn: Connection) -> str:
        from adin.datasets.lake import Lake

        return f"repository {conn.schema}, main at {Lake(conn).resolve('main')[:12]}"


class ClickhouseHook(AdinHook):
    """Adin ClickHouse."""

    name = "clickhouse"

    def probe(self, conn: Connection) -> str:
        from adin.datasets.clickhouse import clickhouse

        with clickhouse(conn) as client:
            return f"ClickHouse {client.command('SELECT version()')}"


class KfpHook(AdinHook):
    """Adin Kubeflow Pipelines."""

    name = "kfp"

    def probe(self, conn: Connection) -> str:
        from adin.pipelines.client import KfpClient

        return f"Kubeflow Pipelines answers ({KfpClient(conn).experiments()} experiments)"


class KserveHook(AdinHook):
    """Adin KServe."""

    name = "kserve"

    def probe(self, conn: Connection) -> str:
        return _get(conn, "/v1/models")


class S3Hook(AdinHook):
    """Adin S3."""

    name = "s3"

    def probe(self, conn: Connection) -> str:
        import urllib3
        from minio import Minio

        client = Minio(
            f"{conn.host}:{conn.port}" if conn.port else conn.host,
            access_key=conn.login,
            secret_key=conn.password,
            secure=conn.extra.get("scheme") == "https",
            region=conn.extra.get("region"),
            http_client=urllib3.PoolManager(timeout=Limits.of(conn).connect_timeout, retries=False),
        )
        return f"{len(list(client.list_buckets()))} buckets"


class AmversionHook(AdinHook):
    """Adin AMVersion.

    Its files lie in the object store of the connection ``s3_default``.
    """

    name = "amversion"

    def probe(self, conn: Connection) -> str:
        from adin.models import registry

        return f"{len(registry(conn, s3=S3Hook().get_conn()).models())} models"
