"""How hard a service is leaned on: time limits, repeats, pool, pace, and a circuit breaker, by its connection.

The clients of lakeFS, ClickHouse, Kubeflow Pipelines and the model server take their limits from here and pass each
call through :func:`guarded`; that of S3 takes time limits and pool, and is repeated by AMVersion's own patience.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from circuitbreaker import CircuitBreaker

from adin.connections import Connection
from adin.errors import ConfigError, ServiceError, UnreachableError
from adin.settings import settings

#: Answers after which a request that changes nothing is repeated.
RETRIED_STATUS = (429, 502, 503, 504)


@dataclass(frozen=True)
class Limits:
    """The limits of one connection, each an extra of this name.

    :param connect_timeout: seconds to open a connection. Default the setting.
    :param read_timeout: seconds to wait for an answer. Default the setting.
    :param retries: how often a request that changes nothing is repeated on 429, 502, 503, 504 and lost connections.
    :param backoff: seconds before the second repeat; doubled before each further one.
    :param pool: connections kept open, and requests at a time.
    :param rate: requests a second; more of them wait. 0: no limit.
    :param breaker_failures: calls that fail one after the other until further ones fail at once. 0: no breaker.
    :param breaker_seconds: until one call is let through again.
    """

    connect_timeout: float
    read_timeout: float
    retries: int = 4
    backoff: float = 0.2
    pool: int = 16
    rate: float = 0
    breaker_failures: int = 20
    breaker_seconds: float = 5

    @classmethod
    def of(cls, conn: Connection) -> Limits:
        """Return the limits of a connection.

        :raises ConfigError: an extra is no number, or negative.
        """
        given: dict[str, Any] = {
            "connect_timeout": settings().connect_timeout,
            "read_timeout": settings().read_timeout,
        }
        for field in fields(cls):
            value = conn.extra.get(field.name)
            if value not in (None, ""):
                given[field.name] = _number(conn, field.name, value, whole=field.type == "int")
        return cls(**given)

    @property
    def timeouts(self) -> tuple[float, float]:
        """Return the seconds to connect and to read, as urllib3 and its clients take them."""
        return self.connect_timeout, self.read_timeout

    def repeats(self) -> Any:
        """Return urllib3's policy: what changes something is never repeated, unless nothing was sent."""
        import urllib3

        return urllib3.Retry(
            total=self.retries,
            backoff_factor=self.backoff,
            status_forcelist=RETRIED_STATUS,
            allowed_methods={"GET", "HEAD"},
            raise_on_status=False,
        )


def _number(conn: Connection, name: str, value: Any, *, whole: bool) -> float:
    try:
        number = int(value) if whole else float(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise ConfigError(f"Connection {conn.name}: {name} is {value!r}.", "Write a number that is not negative.")
    return number


@contextmanager
def guarded(conn: Connection, away: type[ServiceError] = ServiceError) -> Iterator[None]:
    """Let one call through at the connection's pace, unless its circuit is open.

    Only a service that is away or fails counts: an answer that refuses what was asked is an answer.

    :param away: the error that counts, where the client tells a server that is away from one that fails.
    :raises UnreachableError: the service failed so often that it is not asked for a while.
    """
    limits = Limits.of(conn)
    if limits.rate:
        _pace(conn.name, conn.url).wait(limits.rate)
    if not limits.breaker_failures:
        yield
        return
    breaker = _breaker(conn.name, conn.url, limits.breaker_failures, limits.breaker_seconds, away)
    if breaker.opened:
        raise UnreachableError(
            f"{conn.name} at {conn.url} failed {limits.breaker_failures} times and is left alone for "
            f"{limits.breaker_seconds:g} s.",
            f"Last: {breaker.last_failure}",
        )
    with breaker:
        yield


#: By name, address and limits.
_BREAKERS: dict[tuple[Any, ...], CircuitBreaker] = {}


def _breaker(name: str, url: str, failures: int, seconds: float, away: type[ServiceError]) -> CircuitBreaker:
    made = CircuitBreaker(failures, max(seconds, 0.001), expected_exception=away, name=f"{name} {url}")
    return _BREAKERS.setdefault((name, url, failures, seconds, away), made)


@cache
def _pace(name: str, url: str) -> _Pace:
    return _Pace()


class _Pace:
    """Lets calls through at even distances; one that comes too early waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, rate: float) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 1 / rate
        time.sleep(turn - now)
