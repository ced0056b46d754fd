"""Eyes inside kfp's local runner: when each step starts and ends, with what outputs, and its log.

kfp offers no hook, so a few of its functions are wrapped. They are private: another version of kfp is refused.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adin.errors import ConfigError
from adin.settings import settings
from adin.stack.kfp.ahead import Ahead
from adin.stack.kfp.attempt import MARK, Attempt, last_line
from adin.stack.kfp.limits import Limits
from adin.stack.kfp.limits import run as run_limited
from adin.stack.kfp.query import stamp

#: The one version whose inside is known.
KFP = "2.17.0"

Path_ = tuple[str, ...]


class Tracker:
    """Follows the steps of one run and writes ``events.jsonl``.

    :param folder: the attempt's folder.
    :param earlier: folder of a failed attempt; its finished steps are taken over instead of run again.
    """

    def __init__(self, folder: Path, earlier: Path | None = None) -> None:
        self.failures: list[dict[str, str]] = []
        self._attempt = Attempt(folder, "")
        self._events = (folder / "events.jsonl").open("a", buffering=1)
        self._lock = threading.Lock()
        self._seen: set[Path_] = set()
        self._inside: contextvars.ContextVar[Path_] = contextvars.ContextVar("inside", default=())
        self._log: contextvars.ContextVar[Path | None] = contextvars.ContextVar("log", default=None)
        self._limits: contextvars.ContextVar[Limits | None] = contextvars.ContextVar("limits", default=None)
        self._ahead = Ahead(self._one, settings().kfp_parallel_steps)
        self._done = _finished(Attempt(earlier, "")) if earlier else {}
        self._earlier = Attempt(earlier, "") if earlier else None
        (folder / "log").mkdir(exist_ok=True)

    def install(self) -> None:
        """Wrap kfp's functions.

        :raises ConfigError: another version of kfp is installed.
        """
        import kfp
        from kfp.compiler import pipeline_spec_builder
        from kfp.local import cache, graph_utils, status, subprocess_task_handler
        from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor

        if kfp.__version__ != KFP:
            raise ConfigError(f"Local KFP needs kfp {KFP}, found {kfp.__version__}.", "Install requirements-ml.lock.")
        self._status = status.Status
        self._ahead.install(graph_utils, status.Status.SUCCESS)
        self._cache = cache.LocalCache
        self._run_step, task_executor.execute_single_task = task_executor.execute_single_task, self._step
        self._run_task, enhanced_dag_orchestrator.execute_task = enhanced_dag_orchestrator.execute_task, self._task
        self._run_loop = enhanced_dag_orchestrator._run_parallel_for_task
        enhanced_dag_orchestrator._run_parallel_for_task = self._loop
        enhanced_dag_orchestrator.logging = _loud_logging()
        subprocess_task_handler.run_local_subprocess = self._subprocess
        self._to_value, pipeline_spec_builder.to_protobuf_value = pipeline_spec_builder.to_protobuf_value, self._value

    def portable(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return outputs as JSON; artifacts as kfp's own cache writes them."""
        return dict(self._cache._serialize_outputs(outputs))

    def skip_rest(self, spec: Any) -> None:
        """Write down the steps that never ran: a branch not taken, or behind a failure."""
        self._skip(spec.root.dag, dict(spec.components.items()), ())

    def _skip(self, dag: Any, components: dict[str, Any], parent: Path_) -> None:
        for name, task in dag.tasks.items():
            path = (*parent, name)
            if path not in self._seen:
                self._write(path, "SKIPPED")
                continue
            component = components[task.component_ref.name]
            if component.WhichOneof("implementation") != "dag":
                continue
            turns = [seen for seen in sorted(self._seen) if seen[:-1] == path and "-iteration-" in seen[-1]]
            for inner in turns or [path]:
                self._skip(component.dag, components, inner)

    # -- wrappers ------------------------------------------------------------------------------------------------

    def _step(self, **call: Any) -> Any:
        return self._ahead.run(call)

    def _one(self, **call: Any) -> Any:
        path = (*self._inside.get(), call["task_name"])
        if path in self._done and not _runs_always(call["task_spec"]):
            return self._take_over(path)
        log = self._attempt.log("/".join(path))
        log.touch()
        token = self._log.set(log)
        component = call["components"][call["task_spec"].component_ref.name]
        limits = self._limits.set(None)
        self._write(path, "RUNNING")
        try:
            self._limits.set(Limits.of(call["executors"][component.executor_label], partial(_input, call)))
            # kfp makes a job id up; on Kubeflow the placeholder is the run's id
            outputs, status = self._run_step(**call | {"unique_pipeline_id": os.environ.get(MARK, "")})
        except Exception:
            # kfp would drop the whole pipeline, exit handlers too; a step that cannot start has simply failed
            with log.open("a") as file:
                traceback.print_exc(file=file)
            outputs, status = {}, self._status.FAILURE
        finally:
            self._log.reset(token)
            self._limits.reset(limits)
        self._end(path, outputs, status)
        return outputs, status

    def _take_over(self, path: Path_) -> Any:
        assert self._earlier is not None
        event = self._done[path]
        old = self._earlier.log("/".join(path))
        if old.exists():
            self._attempt.log("/".join(path)).write_bytes(old.read_bytes())
        self._write(path, "RUNNING", at=event["started"])
        self._write(path, "SUCCEEDED", at=event["at"], outputs=event["outputs"])
        return self._cache._deserialize_outputs(event["outputs"]), self._status.SUCCESS

    def _task(self, **call: Any) -> Any:
        component = call["components"][call["task_spec"].component_ref.name]
        inside = getattr(call["io_store"], "adin_loop", None) or self._inside.get()
        token = self._inside.set(inside)
        try:
            if component.WhichOneof("implementation") != "dag":
                return self._run_task(**call)
            path = (*inside, call["task_name"])
            self._inside.set(path)
            self._write(path, "RUNNING", group=True)
            try:
                outputs, status = self._run_task(**call)
            except Exception as error:
                self._fail(path, str(error), group=True)
                raise
            self._end(path, outputs, status, group=True)
            return outputs, status
        finally:
            self._inside.reset(token)

    def _loop(self, **call: Any) -> Any:
        path = (*self._inside.get(), call["task_name"])
        store = call["io_store"]
        # the turns of a loop run in threads that do not know where they are; the store they share does
        store.adin_loop = path
        self._write(path, "RUNNING", group=True)
        try:
            failed = self._run_loop(**call)
        finally:
            del store.adin_loop
        self._end(path, {}, self._status.FAILURE if failed else self._status.SUCCESS, group=True)
        return failed

    def _value(self, value: Any) -> Any:
        if value is not None:
            return self._to_value(value)
        # Kubeflow passes null on; kfp.local refuses it
        from google.protobuf import struct_pb2

        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)

    def _subprocess(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        log = self._log.get()
        with log.open("ab") if log else Path(os.devnull).open("wb") as file:
            return run_limited(full_command, self._limits.get() or Limits(), file, os.environ | (env_vars or {}))

    # -- events --------------------------------------------------------------------------------------------------

    def _end(self, path: Path_, outputs: dict[str, Any], status: Any, *, group: bool = False) -> None:
        if status == self._status.SUCCESS:
            self._write(path, "SUCCEEDED", outputs=self.portable(outputs), group=group)
            return
        if group:
            self._write(path, "FAILED", error="A step inside failed.", group=True)
        else:
            self._fail(path, last_line(self._attempt.log("/".join(path))) or "It said nothing.")

    def _fail(self, path: Path_, error: str, **facts: Any) -> None:
        self.failures.append({"name": "/".join(path), "error": error})
        self._write(path, "FAILED", error=error, **facts)

    def _write(self, path: Path_, state: str, *, at: str = "", **facts: Any) -> None:
        self._seen.add(path)
        event = {"at": at or stamp(datetime.now(UTC)), "task": "/".join(path), "state": state, **facts}
        with self._lock:
            self._events.write(json.dumps(event, default=str) + "\n")
            sys.stdout.write(f"{event['at']} {event['task']} {state} {facts.get('error', '')}\n".replace(" \n", "\n"))
            sys.stdout.flush()


def _input(call: dict[str, Any], name: str) -> Any:
    """Return the value of a step's input that comes from an argument of the pipeline or is a constant."""
    given = call["task_spec"].inputs.parameters[name]
    if given.component_input_parameter:
        return call["io_store"].get_parent_input(given.component_input_parameter)
    return given.runtime_value.constant.string_value


def _finished(attempt: Attempt) -> dict[Path_, dict[str, Any]]:
    started: dict[str, str] = {}
    done = {}
    for event in attempt.events():
        if event["state"] == "RUNNING":
            started[event["task"]] = event["at"]
        elif event["state"] == "SUCCEEDED" and not event.get("group"):
            done[tuple(event["task"].split("/"))] = event | {"started": started.get(event["task"], event["at"])}
    return done


def _runs_always(task_spec: Any) -> bool:
    # exit handlers report on this attempt, so they run in each
    return bool(task_spec.trigger_policy.strategy)


# After these warnings kfp runs neither branch, or no turn of the loop, and ends SUCCEEDED: a NaN or a quote is enough.
_FATAL = (
    "Condition evaluation failed",
    "Could not resolve CEL parameter",
    "Unknown items type",
    "Unknown iterator type",
    "Failed to get artifact iterator items",
)


def _loud_logging() -> SimpleNamespace:
    def warning(message: object, *args: object) -> None:
        if str(message).startswith(_FATAL):
            raise ValueError(f"{message}. Branch on a bool that a step has computed.")
        logging.warning(message, *args)

    return SimpleNamespace(warning=warning, info=logging.info, error=logging.error)
