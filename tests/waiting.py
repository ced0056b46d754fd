"""Waiting for what servers do in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 60, *, despite: tuple[type[Exception], ...] = ()) -> None:
    """Wait until something is so.

    :param despite: errors which mean that it is not so yet.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except despite:
            pass
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
