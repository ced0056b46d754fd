"""Steps with no edge between them run at the same time, as on Kubeflow; kfp's local runner goes one by one.

Its loop asks for one step after the other. When it asks for one, the others of the same graph whose inputs are there
are started too, and their results wait until the loop asks for them.
"""

from __future__ import annotations

import contextvars
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

_Key = tuple[int, str]


class Ahead:
    """Starts steps before their turn.

    :param step: runs one step, given the loop's call; returns its outputs and status.
    :param at_a_time: how many go at a time, the one the loop waits for among them.
    """

    def __init__(self, step: Callable[..., Any], at_a_time: int) -> None:
        self._step = step
        self._pool = ThreadPoolExecutor(at_a_time - 1) if at_a_time > 1 else None
        self._graphs: list[dict[str, Any]] = []
        self._started: dict[_Key, Future[Any]] = {}
        self._handed_back: dict[int, set[str]] = defaultdict(set)
        self._stores: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._good: Any = None

    def install(self, graph_utils: Any, good: Any) -> None:
        """Learn each graph when kfp sorts its steps.

        :param good: status of a step that succeeded.
        """
        self._good, sort = good, graph_utils.topological_sort_tasks

        def remembered(tasks: Mapping[str, Any]) -> Any:
            with self._lock:
                if dict(tasks) not in self._graphs:
                    self._graphs.append(dict(tasks))
            return sort(tasks)

        graph_utils.topological_sort_tasks = remembered

    def run(self, call: dict[str, Any]) -> Any:
        """Return what a step gave, and meanwhile run others that can."""
        # the store of a graph's values is another for each turn of a loop; kept, so that its id is not given again
        graph, name = id(call["io_store"]), call["task_name"]
        with self._lock:
            self._stores[graph] = call["io_store"]
            mine = self._started.pop((graph, name), None)
            if self._pool:
                self._start(call, graph)
        # one that waits for a free place is done here and now
        outputs, status = self._step(**call) if mine is None or mine.cancel() else mine.result()
        if status == self._good:
            with self._lock:
                self._handed_back[graph].add(name)
        else:
            # the loop may end with this; what was started ends by itself, as on Kubeflow
            with self._lock:
                going = [future for (where, _), future in self._started.items() if where == graph]
            wait([future for future in going if not future.cancel()])
        return outputs, status

    def _start(self, call: dict[str, Any], graph: int) -> None:
        assert self._pool
        name = call["task_name"]
        tasks = next((found for found in self._graphs if found.get(name) == call["task_spec"]), {})
        done = self._handed_back[graph]
        for other, spec in tasks.items():
            known = other == name or other in done or (graph, other) in self._started
            if known or not done.issuperset(spec.dependent_tasks) or not _plain(spec, call["components"]):
                continue
            context = contextvars.copy_context()
            ahead = {**call, "task_name": other, "task_spec": spec}
            self._started[graph, other] = self._pool.submit(context.run, lambda given=ahead: self._step(**given))


def _plain(spec: Any, components: Mapping[str, Any]) -> bool:
    """Tell whether a step is one process that runs in any case: no group, no condition, no exit handler."""
    policy = spec.trigger_policy
    group = components[spec.component_ref.name].WhichOneof("implementation") == "dag"
    return not (group or policy.condition or policy.strategy or spec.WhichOneof("iterator"))
