"""All that is in the stack's Redis, as one value."""

from __future__ import annotations

from adin.connections import connection
from adin.run_key import content_hash
from redis import Redis

#: What :func:`content` returns for a Redis that holds nothing.
EMPTY = content_hash({})


def redis() -> Redis:
    conn = connection("feast")
    return Redis(conn.host, conn.port or 6379, password=conn.password)


def content() -> str:
    """Return a hash of all keys and their fields."""
    with redis() as client:
        found = {
            key.hex(): {f.hex(): v.hex() for f, v in client.hgetall(key).items()}
            for key in client.scan_iter(count=1000)
        }
    return content_hash(found)


def flush() -> None:
    """Empty it."""
    with redis() as client:
        client.flushall()
