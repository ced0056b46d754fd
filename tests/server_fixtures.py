"""Real servers for the tests: those of the running stack, else the ones needed, started for the session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from adin.connections import Connection, connection
from adin.settings import ROOT, settings
from clickhouse_server import ClickHouseServer
from redis_server import RedisServer
from servers import Servers, execute, s3_client

#: First port of the servers started here; away from the defaults of a user's stack.
PORT_BASE = int(os.environ.get("ADIN_CONTRACT_PORT_BASE", "20000"))


@pytest.fixture(scope="session")
def stack() -> Iterator[dict[str, Connection]]:
    """Connections ``s3`` and ``amversion`` of the stack in ADIN_HOME; without one, of one with just these servers."""
    if "ADIN_CONN_AMVERSION" in os.environ or (settings().home / "secrets.env").is_file():
        yield {name: connection(name) for name in ("s3", "amversion")}
        return
    home = Path(tempfile.mkdtemp(prefix="adin-contract-"))
    home.chmod(0o755)  # PostgreSQL runs as another user when we are root
    paths = os.pathsep.join([str(ROOT / "include"), str(ROOT)])
    environment = {**os.environ, "ADIN_HOME": str(home), "ADIN_PORT_BASE": str(PORT_BASE), "PYTHONPATH": paths}

    def control(call: str) -> None:
        code = f"from adin.stack import control; control.{call}"
        subprocess.run([str(ROOT / ".venv/bin/python"), "-c", code], env=environment, check=True, timeout=240)

    try:
        control("up(['postgres', 's3'])")
        lines = [line.partition("=") for line in (home / "secrets.env").read_text().splitlines() if "=" in line]
        uris = {key: uri for key, _, uri in lines}
        yield {name: Connection.from_uri(name, uris[f"ADIN_CONN_{name.upper()}"]) for name in ("s3", "amversion")}
    finally:
        control("down()")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(stack: dict[str, Connection]) -> Iterator[Servers]:
    """A bucket and a database of our own, so that no test leaves anything in a user's registry."""
    with own_registry(stack) as found:
        yield found


@contextmanager
def own_registry(stack: Mapping[str, Connection]) -> Iterator[Servers]:
    """Make a bucket and a database, and drop them in the end."""
    name = f"adin-test-{uuid.uuid4().hex[:12]}"
    client = s3_client(stack["s3"])
    client.make_bucket(name)
    execute(stack["amversion"], f'CREATE DATABASE "{name}"')
    try:
        yield Servers(stack["s3"], replace(stack["amversion"], schema=name, extra={"bucket": name}), name)
    finally:
        execute(stack["amversion"], f'DROP DATABASE "{name}" WITH (FORCE)')
        for entry in list(client.list_objects(name, recursive=True)):
            client.remove_object(name, entry.object_name)
        client.remove_bucket(name)


def of_edition(found: Servers, edition: str) -> Connection:
    """Return the connection ``amversion`` of an edition."""
    if edition == "database":
        return replace(found.database, extra={**found.database.extra, "edition": "database"})
    return Connection("amversion", schema=found.bucket, extra={"edition": "files"})


@pytest.fixture
def empty(stack: dict[str, Connection], edition: Connection) -> Iterator[Connection]:
    """The connection ``amversion`` of a registry of the edition that nothing was ever written to."""
    with own_registry(stack) as found:
        yield of_edition(found, edition.extra["edition"])


@pytest.fixture(params=["database", "files"])
def edition(request: pytest.FixtureRequest, servers: Servers) -> Connection:
    """The connection ``amversion`` of each edition."""
    return of_edition(servers, request.param)


@pytest.fixture
def model() -> str:
    """The name of a model nobody has used."""
    return f"m_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server of the session's own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse engine of the session's own, beside the ports of the servers above."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"), PORT_BASE + 40)
    yield server
    server.kill()
