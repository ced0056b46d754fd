"""An address of the object store that misbehaves on demand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from adin.connections import Connection
from fault_proxy import FaultProxy

_BUSY = {"status": 503, "body": b"<Error><Code>SlowDown</Code></Error>", "type": "application/xml"}


class Faults:
    """What goes wrong from now on."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._unavailable = proxy.fault("answer", times=0, **_BUSY)
        self._lost = proxy.fault("lose", "^PUT ", times=0)
        #: Whether conditions of PUT requests are taken away, as by a store that does not know them.
        self.blind = False

    @property
    def unavailable(self) -> int:
        """Requests still to be answered with 503 instead of being passed on."""
        return self._unavailable.times or 0

    @unavailable.setter
    def unavailable(self, times: int) -> None:
        self._unavailable.times = times

    @property
    def lost(self) -> int:
        """PUT requests still to be passed on, and their reply lost."""
        return self._lost.times or 0

    @lost.setter
    def lost(self, times: int) -> None:
        self._lost.times = times


@contextmanager
def s3_proxy(s3: Connection) -> Iterator[tuple[Connection, Faults]]:
    """Yield the connection of the proxy and its faults, none to begin with."""
    with FaultProxy(s3) as proxy:
        faults = Faults(proxy)

        def rewrite(method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
            return _unconditional(s3, method, path, headers) if faults.blind and method == "PUT" else headers

        proxy.rewrite = rewrite
        yield proxy.conn, faults


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
