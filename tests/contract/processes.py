"""Functions run in processes of their own, at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any


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
