"""The push service of a test's own: a real server on a real port, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import uvicorn
from adin.connections import Connection
from adin.features.push.pusher import Pusher
from adin.features.push.server import application
from adin.features.push.state import State
from adin.models import registry
from adin.models.access import Access
from redis_server import free_port

WHO = {"actor": "root", "reason": "test"}


def database_url(conn: Connection) -> str:
    """Return the URL of a database."""
    return f"postgresql://{conn.login}:{conn.password}@{conn.host}:{conn.port}/{conn.schema}"


def token(access: Access, user: str, *views: str) -> str:
    """Return a new token of a user who may push to some views."""
    for view in views:
        access.grant(user, "pusher", f"view:{view}", **WHO)
    return access.issue(user, **WHO)


class Caller:
    """Somebody with a token."""

    def __init__(self, url: str, secret: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)

    def push(self, rows: Any, view: str = "origin_2h", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(rows, bytes):
            return self._http.post(f"/v1/views/{view}/rows", content=rows, headers=named)
        return self._http.post(f"/v1/views/{view}/rows", json={"rows": rows}, headers=named)

    def schema(self, view: str) -> httpx.Response:
        return self._http.get(f"/v1/views/{view}/schema")


@contextlib.contextmanager
def served(conn: Connection) -> Iterator[str]:
    """Serve in this process, with its settings; yield the address."""
    with served_with(Pusher(State(conn)), Access(registry().store)) as address:
        yield address


@contextlib.contextmanager
def served_with(pusher: Pusher, access: Access) -> Iterator[str]:
    """The same, of these parts."""
    app = application(pusher, access)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join()


class Process:
    """The service as the stack runs it; may be killed and started again."""

    def __init__(self, conn: Connection) -> None:
        self.connection = replace(conn, host="127.0.0.1", port=free_port())
        self.url = self.connection.url
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        environment = {**os.environ, "ADIN_CONN_PUSH": self.connection.uri}
        self._process = subprocess.Popen([sys.executable, "-m", "adin.features.push.server"], env=environment)
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health/live", timeout=5):
                return
            assert self._process.poll() is None
            time.sleep(0.1)
        raise AssertionError("the push service did not start")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
