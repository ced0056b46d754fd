"""One load of a view at a time: a load compares, then writes, so that of two at once an older row could stay."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from adin.connections import Connection
from adin.errors import ConflictError, ServiceError
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
) -> Iterator[Callable[[], None]]:
    """Work while nobody else loads the view; wait for who does.

    It is noted in Redis for ``online_lease`` seconds at a time, so that a load that was killed is waited for no longer.
    Yields what raises ``ConflictError`` once these seconds are over, as after a long pause of this process; it is to be
    called before each piece of the work.

    :param owner: the load; it does not wait for itself, when it is run again after it was killed.
    :param conn: the online store; default the connection ``feast``.
    :param project: Feast's project; default the setting.
    :param waits: called every other second while another load goes on.
    :raises ServiceError: Redis does not answer.
    """
    lease = _Lease(f"adin:load:{project or settings().project}:{view}".encode(), owner.encode())

    def held() -> None:
        if not lease.held:
            raise ConflictError(f"The load of {view} was held up, and another one may have gone on.", "Run it again.")

    with shards.Shards(conn) as session:
        while not lease.take(session):
            waits()
            time.sleep(2)
        done = threading.Event()
        keeper = threading.Thread(target=lease.keep, args=(session, done), name=f"lease of {view}", daemon=True)
        keeper.start()
        try:
            yield held
        finally:
            done.set()
            keeper.join()
            with contextlib.suppress(ServiceError):  # it ends by itself
                lease.give_back(session)


#: What is done where the key has our value; by a script, as otherwise it may become another's in between.
_IF_OURS = b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call(%s) end return 0"
_PROLONG = _IF_OURS % b"'PEXPIRE', KEYS[1], ARGV[2]"
_GIVE_BACK = _IF_OURS % b"'DEL', KEYS[1]"


class _Lease:
    """A key that goes by itself, with its owner as value."""

    def __init__(self, key: bytes, owner: bytes) -> None:
        self._key, self._owner = key, owner
        self._seconds = settings().online_lease
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Tell whether the key is surely there, and ours."""
        return time.monotonic() < self._until

    def take(self, session: shards.Shards) -> bool:
        """Take it if it is free, or ours."""
        asked = time.monotonic()
        if self._ask(session, b"SET", self._key, self._owner, b"NX", b"PX", self._time):
            self._until = asked + self._seconds
            return True
        return self._prolong(session)

    def keep(self, session: shards.Shards, done: threading.Event) -> None:
        """Prolong it until told that the work is done, or it is lost."""
        while not done.wait(self._seconds / 3):
            with contextlib.suppress(ServiceError):  # held no longer once its time is over
                if not self._prolong(session):
                    self._until = 0.0
                    return

    def give_back(self, session: shards.Shards) -> None:
        """Let others have it."""
        self._ask(session, b"EVAL", _GIVE_BACK, b"1", self._key, self._owner)

    def _prolong(self, session: shards.Shards) -> bool:
        asked = time.monotonic()
        if not self._ask(session, b"EVAL", _PROLONG, b"1", self._key, self._owner, self._time):
            return False
        self._until = asked + self._seconds
        return True

    @property
    def _time(self) -> bytes:
        return b"%d" % int(self._seconds * 1000)

    def _ask(self, session: shards.Shards, *words: bytes) -> object:
        return session.exchange([self._key], [[wire.command(*words)]])[0]
