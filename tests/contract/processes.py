"""Functions run in processes of their own, at the same moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from adin.connections import Connection
from adin.models import registry
from adin.models.events import Deliverer, Receiver


def at_once(count: int, target: Callable[..., None], *args: Any, preload: Sequence[str] = ()) -> list[Any]:
    """Run a function in processes which start at the same moment; return what each put in the queue.

    :param preload: modules that take long to import, imported once for all.
    """
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    queue, barrier = context.Queue(), context.Barrier(count)
    running = [context.Process(target=target, args=(n, barrier, queue, *args)) for n in range(count)]
    for process in running:
        process.start()
    answers = [queue.get(timeout=300) for _ in running]
    for process in running:
        process.join(30)
    return answers


def told_and_killed(n: int, _: Any, queue: Any, conn: Connection, s3: Connection, receiver: Receiver) -> None:
    """Tell a receiver what happened to models, and die before it is noted."""
    models = registry(conn, s3=s3)

    def die(*_: Any) -> Any:
        queue.put(n)
        queue.close()
        queue.join_thread()
        os.kill(os.getpid(), signal.SIGKILL)

    models.store.swap = die  # type: ignore[method-assign]
    Deliverer(models, [receiver]).once()
