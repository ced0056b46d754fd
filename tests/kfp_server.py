"""A local KFP of a test's own: started, killed, started again."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from adin.connections import Connection


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


class Faults:
    """Stands between a client and a server and lets chosen requests go wrong. A request is named ``METHOD /path``.

    :ivar refuse: requests answered with a status, without the server learning of them.
    :ivar lose_answers: requests that the server carries out, but whose connection drops before the answer.
    """

    def __init__(self, conn: Connection) -> None:
        self.refuse: dict[str, int] = {}
        self.lose_answers: set[str] = set()
        self.seen: list[str] = []
        faults, target = self, conn

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                faults._pass_on(self, target)

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.conn = replace(conn, port=self._server.server_port)

    def __enter__(self) -> Faults:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pass_on(self, request: BaseHTTPRequestHandler, target: Connection) -> None:
        name = f"{request.command} {request.path.partition('?')[0]}"
        self.seen.append(name)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        status = self.refuse.get(name)
        content = b""
        if status is None:
            upstream = http.client.HTTPConnection(target.host, target.port, timeout=30)
            upstream.request(request.command, request.path, body, dict(request.headers))
            answer = upstream.getresponse()
            status, content = answer.status, answer.read()
        if name in self.lose_answers:
            request.connection.close()
            return
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def until(true: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
