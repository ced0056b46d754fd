"""Whether a service is well: each check asks the service itself and returns, or raises what is wrong."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

from adin.connections import Connection
from adin.errors import ServiceError
from adin.stack.credentials import connections, credentials, outside
from adin.stack.layout import HOST, port

_SECONDS = 5


def conn(name: str) -> Connection:
    """Return one of the stack's own connections."""
    return next(found for found in [*connections(), *outside()] if found.name == name)


def get(url: str) -> Any:
    """Return the JSON or text answer of a local address; raises when it is no 2xx."""
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - addresses are of this stack
        text = answer.read().decode()
    try:
        return json.loads(text)
    except ValueError:
        return text


def postgres(database: str = "postgres") -> Any:
    """Return an open connection to a database of the stack's PostgreSQL."""
    import psycopg2

    password = credentials()["postgres"]
    return psycopg2.connect(
        host=HOST, port=port("postgres"), user="adin", password=password, dbname=database, connect_timeout=_SECONDS
    )


def s3() -> Any:
    """Return a client after the buckets were listed."""
    import urllib3
    from minio import Minio

    made = conn("s3")
    http = urllib3.PoolManager(timeout=_SECONDS, retries=False)
    client = Minio(
        f"{made.host}:{made.port}", access_key=made.login, secret_key=made.password, secure=False, http_client=http
    )
    client.list_buckets()
    return client


def lakefs() -> None:
    """Ask lakeFS for its health."""
    get(f"http://{HOST}:{port('lakefs')}/_health")


def _jmx(bean: str) -> dict[str, Any]:
    beans = get(f"http://{HOST}:{port('namenode-http')}/jmx?qry=Hadoop:service=NameNode,name={bean}")["beans"]
    return dict(beans[0])


def namenode() -> None:
    """Ask the NameNode for its state."""
    _jmx("NameNodeInfo")


def datanode() -> None:
    """See that the NameNode knows a live DataNode and lets files be written."""
    if _jmx("FSNamesystemState")["NumLiveDataNodes"] < 1:
        raise ServiceError("HDFS has no live DataNode yet.")
    if safe := _jmx("NameNodeInfo")["Safemode"]:
        raise ServiceError(f"HDFS is in safe mode: {safe}")


def metastore() -> None:
    """Ask the metastore for its databases."""
    from hive_metastore.ThriftHiveMetastore import Client
    from thrift.protocol import TBinaryProtocol
    from thrift.transport import TSocket, TTransport

    # thrift logs each refused connection as an error: see first that somebody listens
    socket.create_connection((HOST, port("metastore")), _SECONDS).close()
    plain = TSocket.TSocket(HOST, port("metastore"))
    plain.setTimeout(_SECONDS * 1000)
    transport = TTransport.TBufferedTransport(plain)
    transport.open()
    try:
        Client(TBinaryProtocol.TBinaryProtocol(transport)).get_all_databases()
    finally:
        transport.close()


def redis() -> None:
    """Ping Redis."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # one try: who looks at all services must not wait for one that hangs
    once, password = Retry(NoBackoff(), 0), credentials()["redis"]
    with Redis(HOST, port("redis"), password=password, socket_timeout=_SECONDS, retry=once) as client:
        client.ping()


def clickhouse() -> None:
    """Ping the ClickHouse front."""
    get(f"http://{HOST}:{port('clickhouse')}/ping")


def kfp() -> None:
    """Ask local KFP for its health."""
    get(f"http://{HOST}:{port('kfp')}/apis/v2beta1/healthz")


def kserve() -> None:
    """Ask the model server whether it lives."""
    get(f"http://{HOST}:{port('kserve')}/v2/health/live")


def push() -> None:
    """Ask the push API whether it lives."""
    get(f"http://{HOST}:{port('push')}/health/live")


def airflow_api() -> Any:
    """Return Airflow's own report of its parts."""
    return get(f"http://{HOST}:{port('airflow')}/api/v2/monitor/health")


def airflow(part: str) -> None:
    """See that one of Airflow's processes has sent a heartbeat lately."""
    status = airflow_api()[part]["status"]
    if status != "healthy":
        raise ServiceError(f"Airflow's {part} is {status}.")


def alerts() -> None:
    """Ask the alert service whether it still goes round."""
    get(f"http://{HOST}:{port('alerts')}/healthz")


def prometheus() -> None:
    """Ask Prometheus whether it is ready."""
    get(f"http://{HOST}:{port('prometheus')}/-/ready")


def alertmanager() -> None:
    """Ask Alertmanager whether it is ready."""
    get(f"http://{HOST}:{port('alertmanager')}/-/ready")


def exporter(name: str) -> None:
    """See that an exporter answers; its metrics would hang where what it watches does."""
    get(f"http://{HOST}:{port(name)}/")
