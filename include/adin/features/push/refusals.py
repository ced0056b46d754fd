"""Refused requests on their way into the audit log: those alike are counted, and written as one line some time later.

However often somebody asks, with or without a token, few lines come of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

#: Views a line each, of one caller and status; what is asked of further ones is counted together, as OTHERS.
VIEWS = 10
OTHERS = "(others)"
_LONGEST = 100


@dataclass
class Refused:
    """Requests refused alike.

    :param who: empty where nobody signed in, and :param token: public part of a known token.
    :param view: as it was asked for. :param since: when the first of them came.
    """

    who: str
    token: str
    view: str
    status: int
    since: datetime
    times: int


class Refusals:
    """Counts refusals until they are written. May be used by many threads.

    What is held is bounded by the tokens there are: a caller, a status, and so many views.

    :param write: writes lines, all or none.
    """

    def __init__(self, write: Callable[[Sequence[Refused]], None]) -> None:
        self._write = write
        self._held: dict[tuple[str, str, int], dict[str, Refused]] = {}
        self._counting, self._writing = threading.Lock(), threading.Lock()

    def add(self, who: str, token: str, view: str, status: int) -> None:
        """Count a request."""
        self._count(Refused(who, token, _plain(view), status, datetime.now(UTC), 1))

    def flush(self) -> None:
        """Write what was counted; where that fails it stays counted, and the error is raised."""
        with self._writing:
            with self._counting:
                held, self._held = self._held, {}
            lines = sorted((line for views in held.values() for line in views.values()), key=lambda line: line.since)
            if not lines:
                return
            try:
                self._write(lines)
            except BaseException:
                for line in lines:
                    self._count(line)
                raise

    def _count(self, more: Refused) -> None:
        with self._counting:
            views = self._held.setdefault((more.who, more.token, more.status), {})
            if more.view not in views and len(views) >= VIEWS:
                more.view = OTHERS
            line = views.setdefault(more.view, more)
            if line is not more:
                line.since, line.times = min(line.since, more.since), line.times + more.times


def _plain(view: str) -> str:
    """Return a name that database and terminal can show, whoever made it up."""
    return "".join(each if each.isprintable() else "?" for each in view[:_LONGEST])
