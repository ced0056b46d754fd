"""How much may come in: per token by the second, and in all at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from adin.errors import BusyError, OverloadError

#: Seconds of its rate that one who was quiet may use at once.
_BURST = 10


class Rate:
    """So many a second for each name; who used more waits until the debt is gone.

    :param what: what is counted, for the message.
    """

    def __init__(self, what: str, rate: float) -> None:
        self._what, self._rate = what, rate
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        """See whether there is anything left; :raises BusyError: there is not."""
        left, _ = self._now(name)
        if left <= 0:
            told = f"More than {self._rate:g} {self._what} a second over {_BURST} s."
            raise BusyError(told, after=max(1, math.ceil(-left / self._rate)))

    def use(self, name: str, amount: int) -> None:
        """Take from what is left."""
        with self._lock:
            left, now = self._now(name)
            self._left[name] = (left - amount, now)

    def _now(self, name: str) -> tuple[float, float]:
        now = time.monotonic()
        most = self._rate * _BURST
        left, at = self._left.get(name, (most, now))
        return min(most, left + (now - at) * self._rate), now


class Gate:
    """Lets so many in at a time and turns the others away at once."""

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0
        self._lock = threading.Lock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for a block; :raises OverloadError: it is full."""
        with self._lock:
            if self._inside >= self._most:
                raise OverloadError(f"{self._most} requests are being worked on or wait.", after=1)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
