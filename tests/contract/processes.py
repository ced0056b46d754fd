"""Functions run in processes of their own, at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def at_once(count: int, target: Callable[..., None], *args: Any) -> list[Any]:
    """Run a function in processes which start at the same moment; return what each put in the queue."""
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(count)
    running = [context.Process(target=target, args=(n, barrier, queue, *args)) for n in range(count)]
    for process in running:
        process.start()
    answers = [queue.get(timeout=120) for _ in running]
    for process in running:
        process.join(30)
    return answers
