"""Pushed rows a second, and latency of small pushes: ours | Feast's feature server | a bare Redis pipeline."""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from adin.connections import Connection, connection, use
from adin.errors import ServiceError
from adin.features import codec, repo, store, wire
from adin.settings import settings

from bench.measuring import listens, redis, running

VIEW = "tail_last"
#: Threads that push; requests of many rows, and of one, in each of three rounds.
CLIENTS, LARGE, ROWS, SMALL = 4, 24, 1000, 400
_BEGIN = datetime(2013, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Side:
    """One server: where it takes rows, and in what form."""

    port: int
    path: str
    headers: dict[str, str]
    body: Callable[[int, int], dict[str, Any]]


def measure() -> list[dict[str, Any]]:
    """Return rows per second and latencies of the three, asked in turn, the median of three rounds."""
    base = settings().port_base + 60
    with tempfile.TemporaryDirectory() as folder, redis(Path(folder), kept=True) as own:
        use(replace(own, extra={"registry": f"sqlite:///{folder}/feast.db"}))
        store.apply("flights")
        push = replace(connection("push"), host="127.0.0.1", port=base)
        with (
            _server(push.port or 0, "adin.features.push.server", push),
            _server(base + 1, "bench.stock_push", push, str(base + 1)),
        ):
            ours = Side(
                base,
                f"/v1/views/{VIEW}/rows",
                {"Authorization": f"Bearer {push.password}"},
                lambda n, m: {"rows": _rows(n, m)},
            )
            stock = Side(base + 1, "/write-to-online-store", {}, _columns)
            equal = _stored(ours) == _stored(stock)
            rounds = [_round(number, {"ours": ours, "stock": stock}) for number in range(1, 4)]
    many, one = f"{CLIENTS} clients, {ROWS} rows a request", f"{CLIENTS} clients, one row a request"
    told = {
        "push": ("rows/s", many),
        "push_p99": ("ms", many),
        "push_one_p50": ("ms", one),
        "push_one_p99": ("ms", one),
    }
    found = []
    for name, (unit, note) in told.items():
        values = {side: [each[name].get(side) for each in rounds] for side in ("ours", "stock", "limit")}
        medians = {side: round(float(np.median(each)), 2) if each[0] else None for side, each in values.items()}
        found.append({"name": name, "unit": unit, **medians, "equal": equal, "note": note})
    return found


def _round(number: int, sides: dict[str, Side]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {"push": {}, "push_p99": {}, "push_one_p50": {}, "push_one_p99": {}}
    for name, side in sides.items():
        seconds, wall = _load(side, LARGE, ROWS, number)
        found["push"][name] = LARGE * ROWS / wall
        found["push_p99"][name] = float(np.percentile(seconds, 99)) * 1000
        seconds, _ = _load(side, SMALL, 1, 100 + number)
        found["push_one_p50"][name] = float(np.percentile(seconds, 50)) * 1000
        found["push_one_p99"][name] = float(np.percentile(seconds, 99)) * 1000
    found["push"]["limit"] = _bare(number)
    return found


def _rows(start: int, count: int) -> list[dict[str, Any]]:
    """Rows of as many aircraft; the same place gives the same row."""
    return [
        {
            "tailnum": f"N{n:09}",
            "last_delay": (n % 977) / 4,
            "departed_at": 1356998400 + n,
            "event_timestamp": (_BEGIN + timedelta(seconds=n)).isoformat(),
        }
        for n in range(start, start + count)
    ]


def _columns(start: int, count: int) -> dict[str, Any]:
    rows = [{**row, "created_timestamp": row["event_timestamp"]} for row in _rows(start, count)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {"feature_view_name": VIEW, "df": columns}


def _stored(side: Side) -> dict[bytes, dict[bytes, bytes]]:
    """Push some rows into an empty Redis and return what Feast reads of it."""
    with wire.Session() as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
        link = http.client.HTTPConnection("127.0.0.1", side.port)
        _send(link, side, json.dumps(side.body(0, ROWS)))
        link.close()
        names = session.exchange(wire.command(b"KEYS", b"*"), 1)[0]
        keys = [name for name in names if not name.startswith(b"adin:")]  # what we keep for ourselves
        replies = session.exchange(b"".join(wire.command(b"HGETALL", key) for key in keys), len(keys))
    assert len(keys) == ROWS
    own = f"_created:{VIEW}".encode()
    found = [dict(zip(each[::2], each[1::2], strict=True)) for each in replies]
    return {
        key: {field: value for field, value in each.items() if field != own}
        for key, each in zip(keys, found, strict=True)
    }


def _load(side: Side, requests: int, rows: int, number: int) -> tuple[list[float], float]:
    """Return the seconds of each request, and of all."""
    seconds: list[float] = []
    bodies = [json.dumps(side.body((number * 1000 + n) * 1000, rows)) for n in range(requests)]

    def ask(mine: list[str]) -> None:
        link = http.client.HTTPConnection("127.0.0.1", side.port)
        for body in mine:
            began = time.perf_counter()
            _send(link, side, body)
            seconds.append(time.perf_counter() - began)
        link.close()

    askers = [threading.Thread(target=ask, args=(bodies[place::CLIENTS],)) for place in range(CLIENTS)]
    began = time.perf_counter()
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    wall = time.perf_counter() - began
    if len(seconds) < requests:
        raise ServiceError(f"Only {len(seconds)} of {requests} pushes to port {side.port} were answered.")
    return seconds, wall


def _bare(number: int) -> float:
    """Return rows per second of HSET commands that were encoded before, one request after the other."""
    view = repo.domain("flights").view(VIEW)
    project = settings().project
    payloads = []
    for n in range(LARGE):
        table = pa.Table.from_pylist(_rows((number * 1000 + 500 + n) * 1000, ROWS))
        values = {name: codec.cast(table[name], kind, name=name) for name, kind in view.features}
        keys = codec.entity_keys({"tailnum": ("String", table["tailnum"].combine_chunks())}, project)
        times = np.asarray(table["event_timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
        fields: list[Any] = [f"_ts:{VIEW}".encode(), codec.encode_times(times)]
        for name, kind in view.features:
            fields += [codec.field_name(VIEW, name), codec.encode(values[name], kind)]
        payloads.append(bytes(codec.commands(b"HSET", [keys, *fields]).buffers()[2]))
    with wire.Session() as session:
        session.exchange(wire.command(b"PING"), 1)
        began = time.perf_counter()
        for payload in payloads:
            session.exchange(payload, ROWS)
        return LARGE * ROWS / (time.perf_counter() - began)


def _send(link: http.client.HTTPConnection, side: Side, body: str) -> None:
    link.request("POST", side.path, body, {"Content-Type": "application/json", **side.headers})
    answer = link.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ServiceError(f"port {side.port} answered {answer.status}: {content[:300]!r}")


def _server(port: int, module: str, push: Connection, *more: str) -> AbstractContextManager[None]:
    environment = {"ADIN_CONN_FEAST": connection("feast").uri, "ADIN_CONN_PUSH": push.uri}
    environment |= {"ADIN_PUSH_RATE": "1e9", "ADIN_PUSH_REQUESTS": "1e9"}
    return running([sys.executable, "-W", "ignore", "-m", module, *more], lambda: listens(port), environment)
