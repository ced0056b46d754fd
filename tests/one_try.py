"""One try of a task in a process of its own, which obeys SIGTERM as Airflow's task process does.

No fork of the tests' process: the HDFS client has threads of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def start(
    kind: type,
    arguments: Mapping[str, Any],
    *,
    dag: str,
    run: str,
    settings: Mapping[str, object] = {},
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Let the task ``t`` of a run try once; it ends with 0, or with 1 if it failed or was killed.

    :param kind: the operator.
    :param settings: our settings, by name.
    :param stdout: where it says ``at work`` once it is.
    """
    told = [kind.__module__, kind.__qualname__, json.dumps(arguments, default=str), dag, run]
    environment = os.environ | {f"ADIN_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__)), *told], env=environment, stdout=stdout
    )


def _try(module: str, name: str, arguments: str, dag: str, run: str) -> None:
    operator = getattr(importlib.import_module(module), name)(task_id="t", **json.loads(arguments))
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    task = SimpleNamespace(dag_id=dag, run_id=run, task_id="t", map_index=-1, xcom_push=lambda **_: None)
    print("at work", flush=True)
    operator.execute({"ti": task, "dag_run": SimpleNamespace(triggering_user_name=None), "params": {}})


if __name__ == "__main__":
    _try(*sys.argv[1:])
