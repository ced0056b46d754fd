"""A real Alertmanager, a receiver of its messages, and the alert service, of a test's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from adin.connections import Connection
from adin.settings import ROOT
from adin.stack import monitoring
from adin.stack.layout import PORTS
from redis_server import free_port
from waiting import until


def programs() -> None:
    """Fetch or build the programs of the monitoring, once a machine."""
    code = "import bootstrap; bootstrap.tools(); bootstrap.monitoring()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=900)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith(("{", "[")) else text


def answers(url: str) -> bool:
    try:
        get(url)
    except (urllib.error.URLError, OSError):
        return False
    return True


class Process:
    """A server in a process of its own; started, killed and started again.

    :param url: an address that answers once it is well.
    """

    def __init__(self, command: list[str], url: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command, self.url, self.log, self.environment = command, url, log, environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            env = None if self.environment is None else dict(self.environment)
            self._process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=env)
        until(self._well, seconds=60)

    def _well(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        return answers(self.url)

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None


class Receiver:
    """What people would get: a webhook that keeps each message of Alertmanager."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in message["alerts"]:
                    receiver.told.append((alert["labels"]["alertname"], alert["status"], alert))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def count(self, name: str, status: str, **labels: str) -> int:
        return sum(
            (name, status) == each[:2] and labels.items() <= each[2]["labels"].items() for each in list(self.told)
        )

    def one(self, name: str) -> dict[str, Any]:
        return next(alert for told, _, alert in self.told if told == name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class AlertmanagerServer(Process):
    """Alertmanager that tells a receiver, each alert on its own and almost at once."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.connection = Connection("alertmanager", "127.0.0.1", free_port())
        file = folder / "alertmanager.yml"
        route = {"receiver": "test", "group_by": ["..."], "group_wait": "200ms", "group_interval": "500ms"}
        hook = {"url": receiver.url, "send_resolved": True}
        file.write_text(yaml.safe_dump({"route": route, "receivers": [{"name": "test", "webhook_configs": [hook]}]}))
        command = monitoring.alertmanager_command(file, folder / "data", f"127.0.0.1:{self.connection.port}")
        super().__init__(command, f"{self.connection.url}/-/ready", folder / "alertmanager.log")

    def alerts(self) -> list[dict[str, Any]]:
        return list(get(f"{self.connection.url}/api/v2/alerts"))


class PrometheusServer(Process):
    """Prometheus with the shipped rules, which wait a second only; it looks every second.

    :param jobs: addresses by job, as the stack's own configuration has them.
    """

    def __init__(self, folder: Path, jobs: dict[str, list[str]], told: Connection) -> None:
        address = f"127.0.0.1:{free_port()}"
        rules = (monitoring.FOLDER / "rules" / "alerts.yml").read_text()
        (folder / "rules.yml").write_text(re.sub(r"\bfor: \w+", "for: 1s", rules))
        config = monitoring.config(jobs, f"{told.host}:{told.port}", interval="1s")
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config | {"rule_files": [str(folder / "rules.yml")]}))
        self.address = f"http://{address}"
        command = monitoring.prometheus_command(file, folder / "data", address)
        super().__init__(command, f"{self.address}/-/ready", folder / "prometheus.log")

    def ask(self, expression: str) -> list[float]:
        """Return the values of a query's answer."""
        answer = get(f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return [float(one["value"][1]) for one in answer["data"]["result"]]


class AlertServer(Process):
    """The alert service as the stack runs it, but hasty; of a stack in which nothing was started, without features."""

    def __init__(self, home: Path, port_base: int, amversion: Connection, s3: Connection, told: Connection) -> None:
        for name in ("features", "problems"):
            (home / name).mkdir(parents=True)
        (home / "supervisord.conf").touch()
        own = {
            "ADIN_HOME": home,
            "ADIN_PORT_BASE": port_base,
            "ADIN_FEATURE_REPO": home / "features",
            "ADIN_PROBLEMS": home / "problems",
            "ADIN_CONN_AMVERSION": amversion.uri,
            "ADIN_CONN_S3": s3.uri,
            "ADIN_CONN_ALERTMANAGER": told.uri,
            "ADIN_ALERT_PAUSE": 0.2,
            "ADIN_ALERT_DRIFT_PAUSE": 1,
            "ADIN_ALERT_RESEND": 1,
            "ADIN_ALERT_HOLD": 3,
            "ADIN_REGISTRY_PATIENCE": 2,
        }
        environment = os.environ | {name: str(value) for name, value in own.items()}
        self.address = f"http://127.0.0.1:{port_base + PORTS['alerts']}"
        command = [sys.executable, "-m", "adin.alerts.service"]
        super().__init__(command, f"{self.address}/healthz", home / "alerts.log", environment)
