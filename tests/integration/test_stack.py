"""The stack's own promises, on small stacks of its own beside the one that runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from adin.connections import Connection
from redis import AuthenticationError, Redis
from waiting import until

#: First ports of these stacks: away from the one the tests run on, and below the ports the kernel gives to clients.
_PORT_BASES = iter(range(27100, 28000, 50))


class Stack:
    """A home of its own, driven by the command line as a user would."""

    def __init__(self, home: Path) -> None:
        self.home, self.ports = home, next(_PORT_BASES)
        unset = [name for name in os.environ if name.startswith("ADIN_CONN_")]
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {"ADIN_HOME": str(home), "ADIN_PORT_BASE": str(self.ports)}

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        command = [sys.executable, "-c", "from adin.cli import main; main()", "stack", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=400, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def status(self, name: str) -> dict[str, Any]:
        command = [sys.executable, "-c", "from adin.cli import main; main()", "stack", "status", "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180, check=False)
        return next(found for found in json.loads(done.stdout) if found["name"] == name)

    def connection(self, name: str) -> Connection:
        lines = (self.home / "secrets.env").read_text().splitlines()
        uri = next(line.partition("=")[2] for line in lines if line.startswith(f"ADIN_CONN_{name.upper()}="))
        return Connection.from_uri(name, uri)

    def redis(self, password: str | None = None) -> Redis:
        made = self.connection("feast")
        return Redis(made.host, made.port or 0, password=password or made.password, socket_timeout=5)

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _home_of(process) == str(self.home)]


def _home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("ADIN_STACK")
    except (psutil.Error, OSError):
        return None


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Callable[[str], Stack]]:
    """Make stacks by name; they are stopped at the end."""
    # PostgreSQL runs as another user when we are root, who must be able to pass
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    made: list[Stack] = []

    def make(name: str) -> Stack:
        made.append(Stack(tmp_path / name))
        return made[-1]

    yield make
    for stack in made:
        stack("down")


@pytest.fixture
def stack(new_stack: Callable[[str], Stack]) -> Stack:
    """One stack of the test's own; nothing runs yet."""
    return new_stack("home")


@pytest.mark.flow(1)
def test_a_killed_service_is_started_again_with_its_data_and_the_restart_is_shown(stack: Stack) -> None:
    stack("up", "redis")
    before = stack.status("redis")
    stack.redis().set("kept", "yes")
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: stack.status("redis")["latency"] is not None and stack.status("redis")["pid"] != before["pid"])
    assert stack.status("redis")["restarts"] == before["restarts"] + 1 == 1
    assert stack.redis().get("kept") == b"yes"


@pytest.mark.flow(1)
def test_up_changes_nothing_when_all_is_well(stack: Stack) -> None:
    stack("up", "redis")
    before = stack.status("redis")
    stack("up", "redis")
    assert stack.status("redis")["pid"] == before["pid"]


@pytest.mark.flow(1)
def test_a_taken_port_is_named_with_its_service_and_nothing_is_started(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", stack.ports + 9)):
        message = stack("up", "redis", "postgres", fails=True)
    assert f"{stack.ports + 9} (redis)" in message
    assert "ADIN_PORT_BASE" in message
    assert stack.status("redis")["pid"] is None
    assert stack.status("postgres")["pid"] is None
    stack("up", "redis")
    assert stack.redis().ping()


@pytest.mark.flow(1)
def test_a_home_made_for_other_ports_is_refused_and_left_alone(stack: Stack) -> None:
    stack("up", "redis")
    made, stack.environment["ADIN_PORT_BASE"] = stack.ports, str(stack.ports + 25)
    told = stack("up", "redis", fails=True)
    stack.environment["ADIN_PORT_BASE"] = str(made)
    assert f"ADIN_PORT_BASE={made}" in told
    assert stack.redis().ping()


def test_down_leaves_no_process_and_up_finds_what_was_stored(stack: Stack) -> None:
    stack("up", "redis", "clickhouse")
    stack.redis().set("kept", "yes")
    stack("down")
    assert stack.processes() == []
    stack("up", "redis")
    assert stack.redis().get("kept") == b"yes"


@pytest.mark.flow(1)
def test_a_stack_whose_supervisor_was_killed_can_be_taken_down_and_up(stack: Stack) -> None:
    stack("up", "redis", "clickhouse")
    supervisor = int((stack.home / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert len(stack.processes()) >= 2
    stack("up", "redis")
    assert stack.redis().ping()
    os.kill(int((stack.home / "supervisord.pid").read_text()), signal.SIGKILL)
    stack("down")
    assert stack.processes() == []


@pytest.mark.flow(1)
def test_two_stacks_run_side_by_side_with_passwords_of_their_own(new_stack: Callable[[str], Stack]) -> None:
    first, second = new_stack("first"), new_stack("second")
    first("up", "redis", "s3")
    second("up", "redis", "s3")
    first.redis().set("whose", "first")
    assert second.redis().get("whose") is None
    with pytest.raises(AuthenticationError):
        second.redis(first.connection("feast").password).ping()
    assert first.connection("s3").password != second.connection("s3").password


@pytest.mark.flow(1)
def test_the_password_of_postgres_is_asked_for(stack: Stack) -> None:
    import psycopg2

    stack("up", "postgres")
    made = stack.connection("amversion")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host=made.host, port=made.port, user=made.login, password="wrong", dbname=made.schema)
    psycopg2.connect(host=made.host, port=made.port, user=made.login, password=made.password, dbname=made.schema)


@pytest.mark.flow(1)
def test_logs_shows_the_end_of_a_services_log(stack: Stack) -> None:
    stack("up", "redis")
    assert "Ready to accept connections" in stack("logs", "redis")
    assert "No service 'redsi'" in stack("logs", "redsi", fails=True)


@pytest.mark.flow(1)
def test_every_server_of_the_running_stack_is_well_and_listens_on_loopback_only() -> None:
    from adin.stack import control, leftovers

    unwell = {health.name: health.problem for health in control.status() if health.latency is None}
    assert unwell == {}
    listening = set()
    for process in leftovers.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # tasks come and go
            sockets = process.net_connections(kind="inet")
            listening |= {(process.name(), each.laddr.ip) for each in sockets if each.status == psutil.CONN_LISTEN}
    assert len(listening) >= 5
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


@pytest.mark.flow(1)
def test_the_metastore_takes_a_database_and_gives_it_up() -> None:
    from urllib.parse import urlsplit

    from adin.connections import connection
    from hive_metastore.ThriftHiveMetastore import Client
    from hive_metastore.ttypes import Database
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport.TSocket import TSocket
    from thrift.transport.TTransport import TBufferedTransport

    extra = connection("spark").extra
    address = urlsplit(extra["metastore"])
    transport = TBufferedTransport(TSocket(address.hostname, address.port))
    transport.open()
    client = Client(TBinaryProtocol(transport))
    name = f"stack_test_{int(time.time() * 1000)}"
    client.create_database(Database(name=name, locationUri=f"{extra['warehouse']}/{name}.db"))
    assert name in client.get_all_databases()
    client.drop_database(name, deleteData=True, cascade=True)
    assert name not in client.get_all_databases()
    transport.close()
