"""One load of a view at a time: a load compares, then writes, so that of two at once an older row could stay."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from adin.connections import Connection
from adin.errors import ServiceError
from adin.features import shards, wire
from adin.settings import settings


@contextlib.contextmanager
def alone(
    view: str,
    owner: str,
    *,
    conn: Connection | None = None,
    project: str | None = None,
    waits: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Work while nobody else loads the view; wait for who does.

    It is noted in Redis for ``online_lease`` seconds at a time, so that a load that was killed is waited for no longer.

    :param owner: the load; it does not wait for itself, when it is run again after it was killed.
    :param conn: the online store; default the connection ``feast``.
    :param project: Feast's project; default the setting.
    :param waits: called every other second while another load goes on.
    :raises ServiceError: Redis does not answer.
    """
    lease = _Lease(f"adin:load:{project or settings().project}:{view}".encode(), owner.encode())
    with shards.Shards(conn) as session:
        while not lease.take(session):
            waits()
            time.sleep(2)
        done = threading.Event()
        keeper = threading.Thread(target=lease.keep, args=(session, done), name=f"lease of {view}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            with contextlib.suppress(ServiceError):  # it ends by itself
                lease.give_back(session)


class _Lease:
    """A key that goes by itself, with its owner as value."""

    def __init__(self, key: bytes, owner: bytes) -> None:
        self._key, self._owner = key, owner
        self._time = b"%d" % int(settings().online_lease * 1000)

    def take(self, session: shards.Shards) -> bool:
        """Take it if it is free, or ours."""
        if self._ask(session, b"SET", self._owner, b"NX", b"PX", self._time):
            return True
        return self._ask(session, b"GET") == self._owner and self._prolong(session)

    def keep(self, session: shards.Shards, done: threading.Event) -> None:
        """Prolong it until told that the work is done."""
        while not done.wait(settings().online_lease / 3):
            with contextlib.suppress(ServiceError):  # the load itself will say so
                self._prolong(session)

    def give_back(self, session: shards.Shards) -> None:
        """Let others have it."""
        if self._ask(session, b"GET") == self._owner:
            self._ask(session, b"DEL")

    def _prolong(self, session: shards.Shards) -> bool:
        return bool(self._ask(session, b"SET", self._owner, b"XX", b"PX", self._time))

    def _ask(self, session: shards.Shards, name: bytes, *arguments: bytes) -> object:
        return session.exchange([self._key], [[wire.command(name, self._key, *arguments)]])[0]
