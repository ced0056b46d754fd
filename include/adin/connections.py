"""Where a service is and how to sign in: ``ADIN_CONN_<NAME>`` URIs from the environment or the secrets file.

The form is that of Airflow's connection URIs, so that the hooks and the SDK build the same clients:
``type://login:password@host:port/schema?key=value&__extra__=<json>``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from adin.errors import ConfigError
from adin.settings import settings

#: The services Adin talks to. In Airflow each is the connection ``<name>_default``.
NAMES = ("spark", "feast", "lakefs", "clickhouse", "kfp", "kserve", "s3", "amversion")


@dataclass(frozen=True)
class Connection:
    """One service's address and credentials.

    :param name: one of :data:`NAMES`.
    :param host: host name, address or, for Spark, the master.
    :param schema: database, bucket or repository, where the service has one.
    :param extra: further options, documented in ``docs/connections.md``.
    """

    name: str
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """Return the service's HTTP base address."""
        return f"{self.extra.get('scheme', 'http')}://{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """Return the connection as an ``ADIN_CONN_*`` URI."""
        sign_in = (
            f"{quote(self.login, safe='')}:{quote(self.password, safe='')}@" if self.login or self.password else ""
        )
        port = f":{self.port}" if self.port else ""
        query = "?" + urlencode({"__extra__": json.dumps(dict(self.extra))}) if self.extra else ""
        return f"adin-{self.name}://{sign_in}{quote(self.host, safe='')}{port}/{quote(self.schema, safe='')}{query}"

    @classmethod
    def from_uri(cls, name: str, uri: str) -> Connection:
        """Read a connection from its URI.

        :raises ConfigError: the URI cannot be read.
        """
        try:
            parts = urlsplit(uri)
            options = dict(parse_qsl(parts.query))
            extra = json.loads(options.pop("__extra__", "{}")) | options
            port = parts.port
        except ValueError as error:
            raise ConfigError(
                f"ADIN_CONN_{name.upper()} cannot be read: {error}.", "See docs/connections.md."
            ) from None
        # urlsplit lowers the host; a Spark master such as local[2] is quoted and therefore kept
        host = parts.netloc.rpartition("@")[2]
        host = host.rpartition(":")[0] if port else host
        return cls(
            name=name,
            host=unquote(host),
            port=port,
            login=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            schema=unquote(parts.path.lstrip("/")),
            extra=extra,
        )


#: Connections set by the program itself; Airflow's hooks put theirs here.
_CHOSEN: dict[str, Connection] = {}


def use(conn: Connection) -> None:
    """Let this process use a connection for its service, whatever the environment says."""
    _CHOSEN[conn.name] = conn


#: Connections on trial, in the thread that tries them only.
_TRIED: ContextVar[Mapping[str, Connection]] = ContextVar("tried", default={})  # noqa: B039 - never changed in place


@contextmanager
def trying(conn: Connection) -> Iterator[None]:
    """Use a connection within a block and in this thread only, so that a test of it changes nothing for others."""
    token = _TRIED.set({**_TRIED.get(), conn.name: conn})
    try:
        yield
    finally:
        _TRIED.reset(token)


def connection(name: str) -> Connection:
    """Return the connection of a service: set by the program, else from the environment, else the secrets file.

    :param name: one of :data:`NAMES`.
    :raises ConfigError: no such connection is declared.
    """
    if chosen := _TRIED.get().get(name) or _CHOSEN.get(name):
        return chosen
    key = f"ADIN_CONN_{name.upper()}"
    uri = os.environ.get(key) or _secrets().get(key)
    if not uri:
        raise ConfigError(f"No connection {key}.", "Set it in the environment or start the stack with `adin stack up`.")
    return Connection.from_uri(name, uri)


def declared(name: str) -> bool:
    """Tell whether there is a connection of a service; an installation need not have them all."""
    try:
        connection(name)
    except ConfigError:
        return False
    return True


def environment() -> dict[str, str]:
    """Return the connections set by the program as variables for a child process."""
    return {f"ADIN_CONN_{name.upper()}": conn.uri for name, conn in _CHOSEN.items()}


def _secrets() -> dict[str, str]:
    path = settings().home / "secrets.env"
    if not path.is_file():
        return {}
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
