"""Redis by its own protocol: many commands in one send, all replies read by the C parser."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adin.connections import Connection, connection
from adin.errors import ConfigError, ServiceError
from adin.settings import settings

_CHUNK = 1 << 16
#: What the parser returns where a reply has not arrived whole.
_MORE = object()


class Session:
    """One connection to one Redis server; for one thread at a time. Opens when first used, and anew after a failure.

    :param conn: default the connection ``feast``; ``extra.tls`` asks for TLS, ``extra.ca_file`` names whom to trust.
    :param timeout: seconds to wait for the next bytes; default the setting ``read_timeout``.
    """

    def __init__(self, conn: Connection | None = None, timeout: float | None = None) -> None:
        self.connection = conn or connection("feast")
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._parser: Any = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; no error if it is closed."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, payload: bytes, replies: int, *, timeout: float | None = None) -> list[Any]:
        """Send encoded commands and return their replies in order.

        :param timeout: seconds to wait for the next bytes; default that of the session.
        :raises ServiceError: Redis does not answer, or refused a command.
        :raises ConfigError: Redis refused the password, or its certificate is not to be trusted.
        """
        self.send(payload, timeout=timeout)
        found = self.receive(replies)
        for reply in found:
            if isinstance(reply, Exception):
                self.close()
                raise self.refused(str(reply))
        return found

    def send(self, payload: Any, *, timeout: float | None = None) -> None:
        """Send encoded commands; :meth:`receive` must follow.

        :raises ServiceError, ConfigError: as :meth:`exchange`.
        """
        try:
            if self._socket is None or _gone(self._socket):
                self.close()
                self._open()
            assert self._socket is not None
            self._socket.settimeout(timeout or self._timeout or settings().read_timeout)
            self._socket.sendall(payload)
        except OSError as error:
            raise self._failed(error) from None

    def receive(self, replies: int) -> list[Any]:
        """Return the next replies; a refused command's is an exception in its place.

        :raises ServiceError: Redis does not answer.
        """
        try:
            return self._receive(replies)
        except OSError as error:
            raise self._failed(error) from None

    def _receive(self, replies: int) -> list[Any]:
        assert self._socket is not None
        found: list[Any] = []
        with _uncollected():
            found.extend(iter(self._parser.gets, _MORE))
            while len(found) < replies:
                content = self._socket.recv(_CHUNK)
                if not content:
                    raise ConnectionError("it closed the connection")
                self._parser.feed(content)
                found.extend(iter(self._parser.gets, _MORE))
        return found

    def _open(self) -> None:
        import hiredis

        self._parser = hiredis.Reader(notEnoughData=_MORE)
        conn = self.connection
        opened = socket.create_connection((conn.host, conn.port or 6379), timeout=settings().connect_timeout)
        self._socket = opened
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if conn.extra.get("tls"):
            context = ssl.create_default_context(cafile=conn.extra.get("ca_file") or None)
            self._socket = context.wrap_socket(opened, server_hostname=conn.host)
        if conn.password:
            user = [conn.login] if conn.login else []
            self._socket.sendall(command(b"AUTH", *(part.encode() for part in (*user, conn.password))))
            reply = self._receive(1)[0]
            if isinstance(reply, Exception):
                self.close()
                raise self.refused(str(reply))

    def _failed(self, error: OSError) -> Exception:
        """Close, as a late reply must never be taken for another command's, and return what to raise."""
        self.close()
        where = f"Redis at {self.connection.host}:{self.connection.port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigError(f"{where} shows a certificate that is not trusted: {error}.", "Set extra.ca_file.")
        if isinstance(error, FileNotFoundError):
            return ConfigError(f"No CA file {self.connection.extra.get('ca_file')}.", "Correct extra.ca_file.")
        return ServiceError(f"{where} does not answer: {error}.", "Is it up?")

    def refused(self, message: str) -> Exception:
        """Return what to raise for a reply which is an error."""
        where = f"Redis at {self.connection.host}:{self.connection.port}"
        if message.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
            return ConfigError(f"{where} refused to sign in: {message}", "Check the connection feast.")
        return ServiceError(f"{where} refused a command: {message}")


def _gone(idle: socket.socket) -> bool:
    """Tell whether the server closed a connection on which no reply is awaited: it was restarted, say."""
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))


_readers, _was_on = 0, True
_lock = threading.Lock()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for cycles among replies: it takes longer than to read them, and there are none."""
    global _readers, _was_on
    with _lock:
        if not _readers:
            _was_on = gc.isenabled()
            gc.disable()
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers and _was_on:
                gc.enable()


def command(*parts: bytes) -> bytes:
    """Return one command as Redis reads it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
