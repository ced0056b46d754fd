"""Redis by its own protocol: many commands in one send, all replies read by the C parser."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from adin.connections import Connection, connection
from adin.errors import ConfigError, ServiceError
from adin.settings import settings

_CHUNK = 1 << 16


class Session:
    """One connection to Redis; for one thread at a time. Opens when first used, and anew after a failure.

    :param conn: default the connection ``feast``; ``extra.tls`` asks for TLS.
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
        :raises ConfigError: Redis refused the password.
        """
        try:
            found = self._exchange(payload, replies, timeout or self._timeout or settings().read_timeout)
        except OSError as error:
            self.close()  # a late reply must never be taken for another command's
            where = f"{self.connection.host}:{self.connection.port}"
            raise ServiceError(f"Redis at {where} does not answer: {error}.", "Is it up?") from None
        for reply in found:
            if isinstance(reply, Exception):
                self.close()
                raise self._refused(str(reply))
        return found

    def _exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        if self._socket is None:
            self._open()
        assert self._socket is not None
        self._socket.settimeout(timeout)
        self._socket.sendall(payload)
        found: list[Any] = []
        while len(found) < replies:
            reply = self._parser.gets()
            if reply is not False:
                found.append(reply)
                continue
            content = self._socket.recv(_CHUNK)
            if not content:
                raise ConnectionError("it closed the connection")
            self._parser.feed(content)
        return found

    def _open(self) -> None:
        import hiredis

        self._parser = hiredis.Reader()
        address = (self.connection.host, self.connection.port or 6379)
        opened = socket.create_connection(address, timeout=settings().connect_timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.connection.extra.get("tls"):
            opened = ssl.create_default_context().wrap_socket(opened, server_hostname=self.connection.host)
        self._socket = opened
        if self.connection.password:
            user = [self.connection.login] if self.connection.login else []
            sign_in = command(b"AUTH", *(part.encode() for part in (*user, self.connection.password)))
            reply = self._exchange(sign_in, 1, settings().connect_timeout)[0]
            if isinstance(reply, Exception):
                self.close()
                raise self._refused(str(reply))

    def _refused(self, message: str) -> Exception:
        where = f"Redis at {self.connection.host}:{self.connection.port}"
        if message.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
            return ConfigError(f"{where} refused to sign in: {message}", "Check the connection feast.")
        return ServiceError(f"{where} refused a command: {message}")


def command(*parts: bytes) -> bytes:
    """Return one command as Redis reads it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
