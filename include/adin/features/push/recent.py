"""Rows pushed within the last seconds, by view; kept in Redis beside them, so that a killed service loses none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adin.features import shards, wire
from adin.settings import settings

#: Entries of one view read at a time.
SOME = 16
#: Seconds after which entries go that no service has come for.
_KEPT = b"86400"


def add(view: str, rows: bytes, due: float, session: shards.Shards) -> None:
    """Keep rows until they are compared once more.

    :param rows: an Arrow stream, :param due: when, in seconds of the epoch.
    :raises ServiceError: Redis does not answer.
    """
    key = _key(view)
    session.exchange([key], [[wire.command(b"ZADD", key, b"%.3f" % due, rows)], [wire.command(b"EXPIRE", key, _KEPT)]])


def due(views: Iterable[str], until: float, session: shards.Shards, *, skip: int = 0) -> dict[str, list[bytes]]:
    """Return the first entries of each view that are due, the oldest first; views without any are left out.

    :param until: seconds of the epoch, :param skip: entries to pass over.
    :raises ServiceError: Redis does not answer.
    """
    names = list(views)
    keys, part = [_key(name) for name in names], [b"LIMIT", b"%d" % skip, b"%d" % SOME]
    asked = [wire.command(b"ZRANGEBYSCORE", key, b"-inf", b"%.3f" % until, *part) for key in keys]
    found: list[Any] = session.exchange(keys, [asked])
    return {name: entries for name, entries in zip(names, found, strict=True) if entries}


def forget(view: str, entries: list[bytes], session: shards.Shards) -> None:
    """Forget entries; :raises ServiceError: Redis does not answer."""
    session.exchange([_key(view)], [[wire.command(b"ZREM", _key(view), *entries)]])


def _key(view: str) -> bytes:
    return f"adin:pushed:{settings().project}:{view}".encode()
