"""What a service needs on disk before it starts, and what others need in it once it is well. All can be run twice."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

from adin.errors import ConfigError, ServiceError
from adin.settings import settings
from adin.stack import checks
from adin.stack.credentials import credentials, write_private
from adin.stack.layout import HOST, home, port, postgres_binary, program

#: Hive's own logging configuration needs a library that pyspark does not carry.
_HIVE_LOGGING = """status = ERROR
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
"""

_airflow_lock = threading.Lock()

DATABASES = ("airflow", "lakefs", "amversion", "feast", "features", "push")


def _run(*command: str, environment: dict[str, str] | None = None, user: str | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, user=user, check=False
    )
    if done.returncode:
        output = (done.stdout + done.stderr)[-1500:]
        raise ServiceError(f"{Path(command[0]).name} failed while the stack was prepared:\n{output}")
    return done.stdout


def postgres_user() -> str | None:
    """Return the user PostgreSQL runs as: it refuses to run as root."""
    return "nobody" if os.geteuid() == 0 else None


def postgres_data() -> None:
    """Create the data folder once; its password stands nowhere but in our credentials."""
    data, user = home() / "postgres", postgres_user()
    if user:
        _check_reachable(user, data, Path(postgres_binary("postgres")))
    if (data / "PG_VERSION").is_file():
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    password = home() / ".postgres-password"
    write_private(password, credentials()["postgres"])
    if user:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
        os.chown(password, account.pw_uid, account.pw_gid)
    try:
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--username=adin", f"--pwfile={password}"]
        _run(postgres_binary("initdb"), "-D", str(data), *options, user=user)
    finally:
        password.unlink()


def _check_reachable(user: str, *paths: Path) -> None:
    for path in paths:
        for parent in path.resolve().parents:
            if not parent.stat().st_mode & stat.S_IXOTH:
                raise ConfigError(
                    f"PostgreSQL does not run as root, and user {user} cannot pass through {parent}.",
                    "Run as another user, or put the project and ADIN_HOME where others may pass.",
                )


def databases() -> None:
    """Create one database for each part that keeps its state in PostgreSQL."""
    with checks.postgres() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        known = {row[0] for row in cursor.fetchall()}
    for name in DATABASES:
        if name not in known:
            connection = checks.postgres()
            connection.autocommit = True  # CREATE DATABASE runs in no transaction
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
            connection.close()


def buckets() -> None:
    """Create the buckets of lakeFS and AMVersion."""
    client = checks.s3()
    for bucket in (settings().dataset_bucket, settings().model_bucket):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)


def dataset_repository() -> None:
    """Give lakeFS its admin, who has our credentials, and the repository of dataset versions; once."""
    import lakefs_sdk
    from lakefs_sdk.client import LakeFSClient

    made = checks.conn("lakefs")
    client = LakeFSClient(
        lakefs_sdk.Configuration(host=f"{made.url}/api/v1", username=made.login, password=made.password)
    )
    key = lakefs_sdk.AccessKeyCredentials(access_key_id=made.login, secret_access_key=made.password)
    storage = f"s3://{settings().dataset_bucket}/{made.schema}"
    creation = lakefs_sdk.RepositoryCreation(name=made.schema, storage_namespace=storage, default_branch="main")
    try:
        if client.internal_api.get_setup_state().state != "initialized":
            client.internal_api.setup(lakefs_sdk.Setup(username="admin", key=key))
        client.repositories_api.create_repository(creation)
    except lakefs_sdk.ApiException as error:
        if error.status != 409:
            raise ServiceError(f"lakeFS made no repository {made.schema}: {error.reason} {error.body}") from None


def push_user() -> None:
    """Let the token of the connection ``push`` be good for all views, and renew it in its last month."""
    from adin.models import registry
    from adin.models.access import Access

    token = checks.conn("push").password
    access = Access(registry(checks.conn("amversion"), s3=checks.conn("s3")).store)
    access.grant("stack", "pusher", "view:*", actor="stack", reason="the connection push")
    known = next((each for each in access.tokens() if token.startswith(f"adin_{each.id}_")), None)
    if known is None or known.expires - datetime.now(UTC) < timedelta(days=30):
        access.issue("stack", token=token, days=366, actor="stack", reason="the connection push")


def namenode(command: list[str]) -> None:
    """Write HDFS's configuration and format the NameNode once."""
    data = home("hdfs")
    _write_xml(home("hdfs", "conf") / "core-site.xml", {"fs.defaultFS": f"hdfs://{HOST}:{port('namenode')}"})
    _write_xml(
        home("hdfs", "conf") / "hdfs-site.xml",
        {
            "dfs.namenode.name.dir": str(data / "name"),
            "dfs.datanode.data.dir": str(data / "data"),
            "dfs.replication": "1",
            "dfs.permissions.enabled": "false",
            "dfs.namenode.rpc-bind-host": HOST,
            "dfs.namenode.http-address": f"{HOST}:{port('namenode-http')}",
            "dfs.datanode.address": f"{HOST}:{port('datanode')}",
            "dfs.datanode.http.address": f"{HOST}:{port('datanode-http')}",
            "dfs.datanode.ipc.address": f"{HOST}:{port('datanode-ipc')}",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.client.use.datanode.hostname": "false",
            "dfs.namenode.safemode.extension": "0",
        },
    )
    if not (data / "name" / "current" / "VERSION").is_file():
        _run(*command, "-format", "-nonInteractive", "-force")


def metastore() -> None:
    """Write the metastore's configuration: its tables lie in Derby, its warehouse on HDFS."""
    conf = home("metastore", "conf")
    _write_xml(
        conf / "hive-site.xml",
        {
            "javax.jdo.option.ConnectionURL": f"jdbc:derby:{home('metastore') / 'derby'};create=true",
            "javax.jdo.option.ConnectionDriverName": "org.apache.derby.iapi.jdbc.AutoloadedDriver",
            "datanucleus.schema.autoCreateAll": "true",
            "datanucleus.connectionPoolingType": "HikariCP",  # the default, BoneCP, is not among pyspark's jars
            "hive.metastore.schema.verification": "false",
            "hive.metastore.warehouse.dir": f"hdfs://{HOST}:{port('namenode')}/warehouse",
            "hive.async.log.enabled": "false",
        },
    )
    _write_xml(conf / "core-site.xml", {"fs.defaultFS": f"hdfs://{HOST}:{port('namenode')}"})
    (conf / "hive-log4j2.properties").write_text(_HIVE_LOGGING)


def airflow(environment: dict[str, str]) -> None:
    """Bring Airflow's database up to date and import the connections, when either has changed."""
    airflow, connections = program("airflow"), home() / "connections.json"
    with _airflow_lock:  # its four processes start at the same time
        users = json.dumps({name: credentials()[f"airflow_{name}"] for name in ("admin", "viewer")})
        write_private(home("airflow") / "passwords.json", users)
        _once("airflow-database", _version("apache-airflow"), airflow, "db", "migrate", environment=environment)
        state = hashlib.sha256(connections.read_bytes()).hexdigest()
        command = (airflow, "connections", "import", str(connections), "--overwrite")
        _once("airflow-connections", state, *command, environment=environment)


def _once(name: str, state: str, *command: str, environment: dict[str, str]) -> None:
    stamp = home("airflow") / f"{name}.state"
    if stamp.is_file() and stamp.read_text() == state:
        return
    _run(*command, environment=environment)
    stamp.write_text(state)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _write_xml(path: Path, options: dict[str, str]) -> None:
    lines = [
        f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>"
        for name, value in options.items()
    ]
    path.write_text("<configuration>\n" + "\n".join(lines) + "\n</configuration>\n")
