"""Rows pushed within the last seconds, by view; kept in Redis beside them, so that a killed service loses none."""

from __future__ import annotations

from collections.abc import Iterator

from adin.features import shards, wire
from adin.settings import settings

#: Entries read at a time: few at first, for each may have the size of a request, and more while they are small.
_FEW, _MANY = 16, 1024
_BYTES = 1 << 20
#: Seconds after which entries go that no service has come for.
_KEPT = b"86400"


def add(view: str, rows: bytes, due: float, session: shards.Shards) -> None:
    """Keep rows until they are compared once more.

    :param rows: an Arrow stream, :param due: when, in seconds of the epoch.
    :raises ServiceError: Redis does not answer.
    """
    key = _key(view)
    session.exchange([key], [[wire.command(b"ZADD", key, b"%.3f" % due, rows)], [wire.command(b"EXPIRE", key, _KEPT)]])


def due(view: str, until: float, session: shards.Shards, *, forget: bool) -> Iterator[list[bytes]]:
    """Return the entries of a view that are due, the oldest first, some at a time: more of them where they are small.

    :param until: seconds of the epoch.
    :param forget: forget entries once the next ones are asked for, when they have been worked on.
    :raises ServiceError: Redis does not answer.
    """
    key, skip, some = _key(view), 0, _FEW
    while True:
        part = [b"-inf", b"%.3f" % until, b"LIMIT", b"%d" % skip, b"%d" % some]
        found: list[bytes] = session.exchange([key], [[wire.command(b"ZRANGEBYSCORE", key, *part)]])[0]
        if not found:
            return
        yield found
        if forget:
            session.exchange([key], [[wire.command(b"ZREM", key, *found)]])
        else:
            skip += len(found)
        some = min(some * 4, _MANY) if sum(map(len, found)) < _BYTES else _FEW


def _key(view: str) -> bytes:
    return f"adin:pushed:{settings().project}:{view}".encode()
