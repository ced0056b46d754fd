"""A ClickHouse engine of the session's own, behind the stack's HTTP front."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path

import httpx
from adin.connections import Connection
from adin.settings import ROOT
from adin.stack.layout import PORTS, program


class ClickHouseServer:
    """The process, and the connection to it.

    :param folder: of its databases.
    :param base: port base, as of a stack.
    """

    def __init__(self, folder: Path, base: int) -> None:
        password = secrets.token_urlsafe(12)
        environment = {
            **os.environ,
            "ADIN_HOME": str(folder),
            "ADIN_PORT_BASE": str(base),
            "ADIN_CLICKHOUSE_PASSWORD": password,
            "PYTHONPATH": str(ROOT / "include"),
        }
        self.connection = Connection(
            "clickhouse", "127.0.0.1", base + PORTS["clickhouse"], "adin", password, "datasets"
        )
        with (folder / "log").open("wb") as log:
            # the engine is a package of the Airflow environment
            command = [program("python"), "-m", "adin.stack.clickhouse_front"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.connection.url}/ping", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
