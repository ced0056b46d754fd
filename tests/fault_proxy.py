"""An address of an HTTP server at which chosen requests go wrong.

One proxy for all services, in the tests' own process: toxiproxy speaks TCP, so it can neither let a request arrive and
lose its answer, nor choose the request, and both are what these tests are about.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from adin.connections import Connection

Kind = Literal["answer", "lose", "hold", "hang", "call"]


@dataclass
class Fault:
    """What goes wrong with requests whose line or body a pattern is found in.

    :param kind: ``answer``: with a status, the server learns nothing. ``lose``: it is carried out, then the connection
        drops. ``hold``: it is carried out, and the answer waits for the fault's end. ``hang``: neither. ``call``:
        something is done first, then all goes well.
    :param times: for so many requests; None: for all.
    :ivar met: set when the first such request was there, and carried out where it is.
    """

    kind: Kind
    when: str
    times: int | None = None
    status: int = 500
    body: bytes = b""
    type: str = "application/json"
    do: Callable[[], object] = lambda: None
    met: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


class FaultProxy:
    """Stands before a server; a context manager.

    :param conn: the server's connection.
    :ivar conn: the proxy's.
    :ivar seen: the requests so far, as ``METHOD /path?query`` and the beginning of the body.
    :ivar rewrite: makes the headers that are passed on.
    """

    def __init__(self, conn: Connection) -> None:
        self._target = conn
        self._lock = threading.Lock()
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.rewrite: Callable[[str, str, dict[str, str]], dict[str, str]] = lambda method, path, headers: headers
        self._server = self._listen(0)
        self.conn = replace(conn, host="127.0.0.1", port=self._server.server_port)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self.down()

    def fault(self, kind: Kind, when: str = "", **more: Any) -> Fault:
        """Let requests go wrong from now on; the newest fault that fits counts."""
        made = Fault(kind, when, **more)
        with self._lock:
            self.faults.insert(0, made)
        return made

    def clear(self) -> None:
        """Let everything go well from now on; what is held is answered."""
        with self._lock:
            ended, self.faults = self.faults, []
        for fault in ended:
            fault.over.set()

    def down(self) -> None:
        """Stop listening: connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def up(self) -> None:
        """Listen again, at the same address."""
        self._server = self._listen(self.conn.port or 0)

    def count(self, when: str) -> int:
        """Return how many requests a pattern is found in."""
        return sum(bool(re.search(when, request)) for request in list(self.seen))

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                with suppress(ConnectionError):
                    proxy._handle(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_any

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        told = f"{request.command} {request.path}\n{body[:2000].decode(errors='replace')}"
        self.seen.append(told)
        fault = self._take(told)
        kind = fault.kind if fault else ""
        if fault and kind == "call":
            fault.do()
        if fault and kind in ("answer", "hang"):
            fault.met.set()
            if kind == "answer":
                return _answer(request, fault.status, fault.body, {"Content-Type": fault.type})
            fault.over.wait(60)
            request.close_connection = True
            return None
        status, content, headers = self._ask(request, body)
        if fault:
            fault.met.set()
        if fault and kind == "hold":
            fault.over.wait(60)
        if kind == "lose":
            request.close_connection = True
            return None
        return _answer(request, status, content, headers)

    def _take(self, told: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.when, told):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        upstream = self._upstream()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        if body:
            headers["Content-Length"] = str(len(body))
        headers = self.rewrite(request.command, request.path, headers)
        upstream.request(request.command, request.path, body or None, headers)
        answer = upstream.getresponse()
        found = answer.status, answer.read(), dict(answer.getheaders())
        upstream.close()
        return found

    def _upstream(self) -> http.client.HTTPConnection:
        host, port = self._target.host, self._target.port
        if self._target.extra.get("scheme") == "https":  # a test's own server, whose certificate nobody has signed
            return http.client.HTTPSConnection(host, port, timeout=60, context=ssl._create_unverified_context())
        return http.client.HTTPConnection(host, port or 80, timeout=60)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)


def _answer(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
            request.send_header(name, value)
    of_head = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
    request.send_header("Content-Length", of_head if request.command == "HEAD" else str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
