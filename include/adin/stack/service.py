"""What the stack knows of one of its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Service:
    """One supervised process.

    :param needs: services which must be well before this one starts.
    :param beside: services which must run too, but may start at the same time.
    :param ports: ports it listens on, checked to be free before its first start.
    :param check: returns when the service is well, raises otherwise.
    :param before: makes what the process needs on disk; run before each start of the stack.
    :param after: makes what others need in the running service; run once it is well.
    :param metrics: ports on which Prometheus finds its metrics.
    """

    name: str
    command: list[str]
    check: Callable[[], object]
    ports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing
    stop_signal: str = "TERM"
    metrics: tuple[str, ...] = ()
