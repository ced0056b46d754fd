"""A PostgreSQL server of a test's own, which may be killed and started again."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path
from typing import Any

from adin.connections import Connection
from adin.stack.layout import postgres_binary
from adin.stack.prepare import postgres_user
from redis_server import free_port


class PostgresServer:
    """One server with its data in a folder of its own.

    :param folder: made if need be; every parent can be entered by the user PostgreSQL runs as.
    """

    def __init__(self, folder: Path) -> None:
        self.data, self.user = folder, postgres_user()
        folder.mkdir(mode=0o700)
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self.port = free_port()
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=adin", "--no-sync"]
        self._run([postgres_binary("initdb"), "-D", str(folder), *options]).wait()
        self.start()

    @property
    def conn(self) -> Connection:
        """Return the connection ``amversion`` of the database edition in it."""
        extra = {"edition": "database"}
        return Connection("amversion", "127.0.0.1", self.port, "adin", "", "postgres", extra)

    def start(self) -> None:
        """Start it; returns when it answers."""
        where = ["-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port)]
        command = [postgres_binary("postgres"), *where, "-c", "unix_socket_directories="]
        self._process = self._run(command)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            ready = [postgres_binary("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                # children of one that was killed hold the memory it needs, until they notice
                self._process = self._run(command)
            time.sleep(0.2)
        raise AssertionError("PostgreSQL did not start")

    def kill(self) -> None:
        """Kill it and all its connections, as a power cut would."""
        self._process.kill()
        self._process.wait()
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _run(self, command: list[str]) -> subprocess.Popen[Any]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        group = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user else {}
        return subprocess.Popen(command, cwd="/", **quiet, **group)
