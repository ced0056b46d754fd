"""Requests per second of one flight each: ours | KServe transformer (Feast SDK) + predictor | the bare predictor."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from adin.connections import connection
from adin.errors import ServiceError
from adin.features.store import feature_store
from adin.problem import problem
from adin.settings import ROOT, settings

from bench.measuring import running
from bench.stock_features import features

PROBLEM = "flights_delay"
#: Threads that ask, and how many requests each round is.
CLIENTS, REQUESTS = 4, 400


def measure() -> list[dict[str, Any]]:
    """Return requests per second and latencies of the three, asked in turn, the median of three rounds."""
    # a departure for which no stored value is stale: Feast's SDK would use it, ours does not
    example = {**problem(PROBLEM).example, "scheduled_departure": "2013-12-31T04:00:00Z"}
    base = settings().port_base + 60
    with _server("predictor", base), _server("transformer", base + 1, base):
        ours = connection("kserve")
        sides = {
            "ours": (ours.port, {"Authorization": f"Bearer {ours.password}"}, {"instances": [example]}),
            "stock": (base + 1, {}, {"instances": [example]}),
            "limit": (base, {}, {"instances": features(feature_store(), [example])}),
        }
        first = {name: _ask(port, headers, body)["predictions"][0] for name, (port, headers, body) in sides.items()}
        rounds = [{name: _load(*side) for name, side in sides.items()} for _ in range(3)]
    equal = max(first.values()) - min(first.values()) < 1e-6
    rows = []
    for place, (what, unit) in enumerate([("serving", "req/s"), ("serving_p50", "ms"), ("serving_p99", "ms")]):
        values = {name: round(float(np.median([each[name][place] for each in rounds])), 2) for name in sides}
        note = f"{CLIENTS} clients, one row a request"
        rows.append({"name": what, "unit": unit, **values, "equal": equal, "note": note})
    return rows


def _load(port: int, headers: dict[str, str], body: dict[str, Any]) -> tuple[float, float, float]:
    """Return requests per second, p50 and p99 in milliseconds."""
    seconds: list[float] = []

    def ask() -> None:
        link = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(REQUESTS // CLIENTS):
            began = time.perf_counter()
            _send(link, headers, body)
            seconds.append(time.perf_counter() - began)
        link.close()

    askers = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    wall = time.perf_counter() - began
    return len(seconds) / wall, float(np.percentile(seconds, 50)) * 1000, float(np.percentile(seconds, 99)) * 1000


def _ask(port: int, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    link = http.client.HTTPConnection("127.0.0.1", port)
    try:
        return dict(json.loads(_send(link, headers, body)))
    finally:
        link.close()


def _send(link: http.client.HTTPConnection, headers: dict[str, str], body: dict[str, Any]) -> bytes:
    link.request(
        "POST", f"/v1/models/{PROBLEM}:predict", json.dumps(body), {"Content-Type": "application/json", **headers}
    )
    answer = link.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ServiceError(f"port {link.port} answered {answer.status}: {content[:300]!r}")
    return content


def _server(role: str, port: int, *more: int) -> AbstractContextManager[None]:
    python = ROOT / ".venv-ml" / "bin" / "python"
    command = [python, "-W", "ignore", "-m", "bench.stock_kserve", role, str(port), *map(str, more)]
    return running(command, lambda: _ready(port))


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        link.request("GET", f"/v1/models/{PROBLEM}")
        return link.getresponse().status == 200
    return False
