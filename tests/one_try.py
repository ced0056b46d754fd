"""One try of a task in a process of its own, which obeys SIGTERM as Airflow's task process does.

It is forked from a server that has imported the operators, which takes seconds, and has done nothing else: the tests'
own process cannot be forked, for the HDFS client has threads of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from types import SimpleNamespace
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["operators.amversion", "operators.kfp", "operators.kserve", "operators.spark_hive"])


def event() -> Event:
    """Return what :func:`start` may be given to tell by that the task is at work."""
    return _CONTEXT.Event()


def start(
    kind: type,
    arguments: Mapping[str, Any],
    *,
    dag: str,
    run: str,
    settings: Mapping[str, object] = {},
    at_work: Event | None = None,
) -> ForkServerProcess:
    """Let the task ``t`` of a run try once; it ends with 0, or with 1 if it failed or was killed.

    :param kind: the operator.
    :param settings: our settings, by name.
    :param at_work: set once it is.
    """
    environment = dict(os.environ) | {f"ADIN_{name.upper()}": str(value) for name, value in settings.items()}
    plain = json.loads(json.dumps(arguments, default=str))
    process = _CONTEXT.Process(target=_try, args=(kind, plain, dag, run, environment, at_work))
    process.start()
    return process


def ended(process: ForkServerProcess, seconds: float) -> int | None:
    """Wait for the end of a try; return its exit code, the signal's with a minus, or None if it still goes."""
    process.join(seconds)
    return process.exitcode


def _try(
    kind: type, arguments: dict[str, Any], dag: str, run: str, environment: dict[str, str], at_work: Event | None
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    operator = kind(task_id="t", **arguments)
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    task = SimpleNamespace(dag_id=dag, run_id=run, task_id="t", map_index=-1, xcom_push=lambda **_: None)
    if at_work is not None:
        at_work.set()
    operator.execute({"ti": task, "dag_run": SimpleNamespace(triggering_user_name=None), "params": {}})
