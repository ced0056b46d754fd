"""One Redis, a Redis Cluster or several independent servers, behind one call.

The connection's ``extra.mode`` chooses: ``single`` (default), ``cluster`` or ``servers``; ``extra.nodes`` lists the
addresses ``host:port`` beside the connection's own. A key belongs to one of 16,384 slots, by Redis Cluster's rule. In a
cluster the slots' owners are what ``CLUSTER SLOTS`` says; of several servers each slot goes to the one whose
address hashes highest with it, so that the order of the list does not matter and a new server takes only its share.
"""

from __future__ import annotations

import os
import threading
import time
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa

from adin.connections import Connection, connection
from adin.errors import AdinError, ConfigError, ServiceError
from adin.features import codec, wire
from adin.settings import settings

MODES = ("single", "cluster", "servers")
SLOTS = 16_384
_PAUSE = 0.05

Address = tuple[str, int]
#: One encoded command a row: an Arrow column, or a list of bytes.
Commands = Any


def mode(conn: Connection) -> str:
    """Return how the servers of a connection share the keys; :raises ConfigError: it says something unknown."""
    found = str(conn.extra.get("mode") or "single")
    if found not in MODES:
        raise ConfigError(f"The connection feast has the mode {found!r}.", f"Use one of {', '.join(MODES)}.")
    return found


def addresses(conn: Connection) -> list[Address]:
    """Return the addresses a connection names, its own first; :raises ConfigError: one cannot be read."""
    listed = str(conn.extra.get("nodes") or "")
    own = [(conn.host, conn.port or 6379)] if conn.host else []
    found = [_address(each) for each in listed.replace(" ", "").split(",") if each]
    return list(dict.fromkeys([*own, *found]))


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"The connection feast names a node {text!r}.", "Write host:port, with commas between.")
    return host, int(port)


def slot(key: bytes) -> int:
    """Return the slot of a key: CRC16 of the key, or of what stands within its first braces."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    return crc_hqx(key[start + 1 : end] if end > start + 1 else key, 0) % SLOTS


class Shards:
    """Connections to all servers of the online store; for one thread at a time.

    :param conn: default the connection ``feast``.
    :param timeout: seconds to wait for the next bytes; default the setting ``read_timeout``.
    """

    def __init__(self, conn: Connection | None = None, timeout: float | None = None) -> None:
        self.connection = conn or connection("feast")
        self._timeout = timeout
        self.mode = mode(self.connection)
        self._known = addresses(self.connection)
        self._sessions: dict[Address, wire.Session] = {}
        self._nodes: list[Address] = []
        self._owners: np.ndarray | None = None

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and forget who owns what; no error if they are closed."""
        for session in self._sessions.values():
            session.close()
        self._owners = None

    def exchange(
        self, keys: pa.Array | list[bytes], commands: Sequence[Commands], *, timeout: float | None = None
    ) -> list[Any]:
        """Send each row's commands to the server of its key; return the replies, row by row.

        Commands may be sent twice where a cluster moves slots: they must be such that this does no harm.

        :param commands: columns of commands: the first of each row, the second, ...
        :raises ServiceError: a server does not answer, or refused a command.
        :raises ConfigError: a server refused the password.
        """
        try:
            if self.mode == "single":
                session = self._session(self._known[0])
                return session.exchange(_payload(commands), len(keys) * len(commands), timeout=timeout)
            return self._exchange(keys if isinstance(keys, list) else keys.to_pylist(), commands, timeout)
        except AdinError:
            self.close()  # replies may be under way on the others
            raise

    def primaries(self) -> list[wire.Session]:
        """Return a session with each server that owns keys."""
        if self.mode == "single":
            return [self._session(self._known[0])]
        return [self._session(self._nodes[place]) for place in np.unique(self._table())]

    def _exchange(self, keys: list[bytes], commands: Sequence[Commands], timeout: float | None) -> list[Any]:
        each, slots = len(commands), np.fromiter(map(slot, keys), "i8", len(keys))
        found: list[Any] = [None] * (len(keys) * each)
        left = np.arange(len(keys))
        deadline = time.monotonic() + (timeout or self._timeout or settings().read_timeout)
        while len(left):
            parts = self._parts(slots, left)
            for session, places in parts:
                session.send(_payload(commands, places), timeout=timeout)
            refused: list[tuple[int, wire.Session, str]] = []
            for session, places in parts:
                replies = session.receive(len(places) * each)
                refused += _place(found, replies, places, each, session)
            asked, left = self._redirected(refused, slots)
            for address, places in asked.items():
                self._ask(address, commands, np.array(places), found)
            if len(left) and time.monotonic() > deadline:
                raise ServiceError(f"The Redis cluster refused: {refused[0][2]}", "Is it whole?")
        return found

    def _parts(self, slots: np.ndarray, left: np.ndarray) -> list[tuple[wire.Session, np.ndarray]]:
        owners = self._table()[slots[left]]
        return [(self._session(self._nodes[node]), left[owners == node]) for node in np.unique(owners)]

    def _redirected(
        self, refused: list[tuple[int, wire.Session, str]], slots: np.ndarray
    ) -> tuple[dict[Address, list[int]], np.ndarray]:
        """Return the rows to be asked for elsewhere this once, and those to be sent anew."""
        asked: dict[Address, list[int]] = {}
        again: list[int] = []
        wait = False
        for place, session, message in refused:
            kind, _, rest = message.partition(" ")
            if self.mode == "cluster" and kind in ("MOVED", "ASK"):
                host, _, port = rest.rpartition(" ")[2].rpartition(":")
                address = (host or session.connection.host, int(port))
                if kind == "ASK":
                    asked.setdefault(address, []).append(place)
                    continue
                self._table()[slots[place]] = self._node(address)
            elif self.mode == "cluster" and kind in ("TRYAGAIN", "CLUSTERDOWN"):
                wait = True
            else:
                raise session.refused(message)
            again.append(place)
        if wait:
            time.sleep(_PAUSE)
        return asked, np.array(again, "i8")

    def _ask(self, address: Address, commands: Sequence[Commands], places: np.ndarray, found: list[Any]) -> None:
        """Ask the server to which a slot is just being moved."""
        asking = wire.command(b"ASKING")
        rows = [[bytes(_payload([column], np.array([place]))) for column in commands] for place in places]
        session = self._session(address)
        payload = b"".join(asking + command for row in rows for command in row)
        replies = session.exchange(payload, 2 * len(rows) * len(commands))
        _place(found, replies[1::2], places, len(commands), session)

    def _session(self, address: Address) -> wire.Session:
        if address not in self._sessions:
            conn = replace(self.connection, host=address[0], port=address[1])
            self._sessions[address] = wire.Session(conn, self._timeout)
        return self._sessions[address]

    def _node(self, address: Address) -> int:
        if address not in self._nodes:
            self._nodes.append(address)
        return self._nodes.index(address)

    def _table(self) -> np.ndarray:
        """Return for each slot the place of its owner among the nodes."""
        if self._owners is None:
            self._owners = self._by_address() if self.mode == "servers" else self._by_cluster()
        return self._owners

    def _by_address(self) -> np.ndarray:
        self._nodes = list(self._known)
        return _highest(tuple(self._nodes))

    def _by_cluster(self) -> np.ndarray:
        ranges, host = self._ask_slots()
        owners = np.full(SLOTS, -1)
        for first, last, primary, *_ in ranges:
            owners[first : last + 1] = self._node(((primary[0] or host.encode()).decode(), primary[1]))
        if (owners < 0).any():
            raise ServiceError(f"{int((owners < 0).sum())} slots of the Redis cluster have no server.", "Is it whole?")
        return owners

    def _ask_slots(self) -> tuple[list[Any], str]:
        """Return what the first node that answers says, and its host."""
        failure: AdinError | None = None
        for address in dict.fromkeys([*self._known, *self._nodes]):
            try:
                found = self._session(address).exchange(wire.command(b"CLUSTER", b"SLOTS"), 1)[0]
                return list(found), address[0]
            except ServiceError as error:
                failure = error
        raise failure or ConfigError("The connection feast names no node.", "Set its host, or extra.nodes.")


@cache
def _highest(nodes: tuple[Address, ...]) -> np.ndarray:
    """Return for each slot the place of the address that hashes highest with it."""
    weights = [[mmh3.hash64(f"{host}:{port}/{n}", signed=False)[0] for n in range(SLOTS)] for host, port in nodes]
    return np.argmax(np.array(weights, "u8"), axis=0)


def _place(
    found: list[Any], replies: list[Any], places: np.ndarray, each: int, session: wire.Session
) -> list[tuple[int, wire.Session, str]]:
    """Put replies where they belong; return the rows that were refused, with the reason."""
    refused: dict[int, tuple[int, wire.Session, str]] = {}
    if each == 1:
        pairs = zip(places.tolist(), replies, strict=True)
    else:
        pairs = zip((places[:, None] * each + np.arange(each)).ravel().tolist(), replies, strict=True)
    for place, reply in pairs:
        found[place] = reply
        if isinstance(reply, Exception):
            refused.setdefault(place // each, (place // each, session, str(reply)))
    return list(refused.values())


def _payload(commands: Sequence[Commands], places: np.ndarray | None = None) -> Any:
    """Return the commands of all rows, or of some, one row after the other."""
    if isinstance(commands[0], list):
        chosen = range(len(commands[0])) if places is None else places.tolist()
        return b"".join(column[place] for place in chosen for column in commands)
    columns = list(commands) if places is None else [column.take(pa.array(places)) for column in commands]
    joined = codec.join(columns) if len(columns) > 1 else columns[0]
    _, ends, content = joined.buffers()
    offsets = np.frombuffer(ends, "i4")
    return memoryview(content)[offsets[joined.offset] : offsets[joined.offset + len(joined)]]


# --- pool ---------------------------------------------------------------------------------------------------------

_idle: dict[tuple[int, str], list[Shards]] = {}
_lock = threading.Lock()


@contextmanager
def borrowed(conn: Connection | None = None) -> Iterator[Shards]:
    """Lend connections from this process's pool; they go back unless the work failed."""
    conn = conn or connection("feast")
    key = (os.getpid(), conn.uri)  # a forked process must not share its parent's sockets
    with _lock:
        kept = _idle.setdefault(key, [])
        lent = kept.pop() if kept else Shards(conn)
    try:
        yield lent
    except BaseException:
        lent.close()
        raise
    with _lock:
        if len(kept) < settings().online_pool:
            kept.append(lent)
            return
    lent.close()
