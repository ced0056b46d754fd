"""A local KFP of a test's own: started, killed, started again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from adin.connections import Connection
from waiting import until


class LocalKfp:
    """A server in a process of its own, on a free port, with its state in a folder."""

    def __init__(self, home: Path, python: str = sys.executable) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.home = home
        self._python = python
        self.token = secrets.token_hex(8)
        self.conn = Connection("kfp", "127.0.0.1", port, password=self.token)
        self.log = home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> LocalKfp:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "adin.stack.kfp.server", "--home", str(self.home / "kfp")],
                env=os.environ
                | {
                    "ADIN_CONN_KFP": self.conn.uri,
                    "ADIN_HOME": str(self.home),
                    "PATH": f"{Path(self._python).parent}:{os.environ['PATH']}",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._healthy, seconds=60)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.conn.url}/apis/v2beta1/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
