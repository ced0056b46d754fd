"""An address of the object store that misbehaves on demand."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from adin.connections import Connection


@dataclass
class Faults:
    """What goes wrong from now on.

    :param unavailable: requests still to be answered with 503 instead of being passed on.
    :param lost: PUT requests still to be passed on whose reply is then lost.
    :param blind: whether conditions of PUT requests are taken away, as by a store that does not know them.
    """

    unavailable: int = 0
    lost: int = 0
    blind: bool = False


@contextmanager
def s3_proxy(s3: Connection) -> Iterator[tuple[Connection, Faults]]:
    """Yield the connection of the proxy and its faults, none to begin with."""
    faults, lock = Faults(), threading.Lock()

    def take(fault: str) -> bool:
        with lock:
            left = getattr(faults, fault)
            setattr(faults, fault, max(0, left - 1))
            return bool(left)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if take("unavailable"):
                return self.answer(503, b"<Error><Code>SlowDown</Code></Error>", {"Content-Type": "application/xml"})
            headers = dict(self.headers.items())
            if faults.blind and self.command == "PUT":
                headers = _unconditional(s3, self.command, self.path, headers)
            upstream = http.client.HTTPConnection(s3.host, s3.port or 80, timeout=30)
            upstream.request(self.command, self.path, body, headers)
            found = upstream.getresponse()
            content = found.read()
            if self.command == "PUT" and take("lost"):
                self.close_connection = True
                return None
            return self.answer(found.status, content, dict(found.getheaders()))

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_any

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield replace(s3, host="127.0.0.1", port=server.server_port), faults
    finally:
        server.shutdown()


def _unconditional(s3: Connection, method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
    """Return the headers of a request signed again, without its conditions."""
    from minio.credentials import Credentials
    from minio.signer import sign_v4_s3

    signed = {"host", "content-type", "content-length", "x-amz-content-sha256", "content-md5"}
    kept = {name: value for name, value in headers.items() if name.lower() in signed}
    now = datetime.now(UTC)
    kept["x-amz-date"] = now.strftime("%Y%m%dT%H%M%SZ")
    digest = next(value for name, value in kept.items() if name.lower() == "x-amz-content-sha256")
    url = urlsplit(f"http://{headers['Host']}{path}")
    who = Credentials(s3.login, s3.password)
    request = {"method": method, "url": url, "region": "us-east-1", "headers": kept}
    return dict(sign_v4_s3(**request, credentials=who, content_sha256=digest, date=now))
