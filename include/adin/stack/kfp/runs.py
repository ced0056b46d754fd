"""Runs: created, started up to a limit, watched, cancelled, retried."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from adin.errors import ConfigError, ConflictError, NotFoundError
from adin.stack.kfp import spec as specs
from adin.stack.kfp.attempt import Attempt, finite, last_line
from adin.stack.kfp.catalog import default_experiment
from adin.stack.kfp.query import stamp
from adin.stack.kfp.store import Doc, Store

_LOG = logging.getLogger(__name__)

_ENDED = Counter("adin_kfp_runs_ended", "Runs that ended, by how", ["state"])
_SECONDS = Histogram(
    "adin_kfp_run_seconds", "Time from a run's creation to its end", buckets=(1, 5, 15, 60, 180, 600, 1800, 3600, 7200)
)
TERMINAL = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_GOING = "state IN ('RUNNING', 'CANCELING')"
#: Seconds between asking a run to stop and killing it.
_GRACE = 5
_PASSED_ON = ("description", "service_account", "runtime_config", "pipeline_version_reference", "recurring_run_id")


class Runs:
    """The runs of one local KFP.

    :param home: folder of the service; each run has one below ``runs``.
    :param parallel: how many runs go at a time; others wait as PENDING.
    """

    def __init__(self, store: Store, home: Path, parallel: int) -> None:
        self._store = store
        self._home = home
        self._parallel = parallel
        self._lock = threading.RLock()
        self._children: dict[str, Attempt] = {}
        self._asked: dict[str, float] = {}

    def create(self, body: Mapping[str, Any], *, run_id: str = "", scheduled_at: str = "") -> Doc:
        """Create a run, PENDING, and return it.

        :param body: a v2beta1 Run: a pipeline inline or by reference, and the arguments.
        :raises ConfigError: the name, the pipeline or an argument is wrong.
        :raises NotFoundError: the pipeline or the experiment does not exist.
        """
        name = str(body.get("display_name") or "").strip()
        if not name:
            raise ConfigError("The run has no display_name.")
        spec = self.spec_of(body)
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        arguments = specs.arguments(spec, given)
        digest, text = specs.digest(spec)
        experiment = body.get("experiment_id") or default_experiment(self._store)["id"]
        now = stamp(datetime.now(UTC))
        with self._store.transaction():
            home = self._store.get("experiment", experiment)
            if home["storage_state"] == "ARCHIVED":
                raise ConfigError(f"Experiment {home['display_name']} is archived.", "Unarchive it first.")
            doc: Doc = {
                "id": run_id or str(uuid.uuid4()),
                "experiment_id": experiment,
                "display_name": name,
                "storage_state": "AVAILABLE",
                "created_at": now,
                "scheduled_at": scheduled_at or now,
                **{key: body[key] for key in _PASSED_ON if body.get(key)},
                "state_history": [],
                "_inline": "pipeline_version_reference" not in body or not body["pipeline_version_reference"],
                "_spec": digest,
                "_arguments": arguments,
                "_attempt": 1,
            }
            self._store.put_spec(digest, text)
            self._store.put("experiment", experiment, home | {"last_run_created_at": now})
            self._to(doc, "PENDING")
        return doc

    def spec_of(self, body: Mapping[str, Any]) -> specs.Spec:
        """Return the pipeline a run or a recurring run asks for.

        :raises ConfigError: it asks for none, or for something that is no pipeline.
        """
        reference = body.get("pipeline_version_reference") or {}
        if not reference:
            if not body.get("pipeline_spec"):
                raise ConfigError("No pipeline: send pipeline_spec or pipeline_version_reference.")
            return specs.check(body["pipeline_spec"])
        pipeline = reference.get("pipeline_id", "")
        if reference.get("pipeline_version_id"):
            version = self._store.get("version", reference["pipeline_version_id"])
            if pipeline and version["pipeline_id"] != pipeline:
                raise NotFoundError(f"Version {version['id']} is not one of pipeline {pipeline}.")
        else:
            versions = self._store.find("version", pipeline_id=pipeline)
            if not versions:
                raise NotFoundError(f"Pipeline {pipeline} not found, or it has no version.")
            version = versions[-1]
        return self._store.spec(version["_spec"])

    def terminate(self, run_id: str) -> None:
        """Cancel a run: at once if it waits, else CANCELING until its processes are gone.

        :raises ConflictError: it has ended already.
        """
        with self._lock, self._store.transaction():
            run = self._store.get("run", run_id)
            if run["state"] in TERMINAL:
                raise ConflictError(f"Run {run_id} has ended: {run['state']}.")
            if run["state"] != "CANCELING":
                self._to(run, "CANCELED" if run["state"] == "PENDING" else "CANCELING")

    def retry(self, run_id: str) -> None:
        """Run a failed or cancelled run again under the same id; steps that succeeded are not run again.

        :raises ConflictError: it has not failed.
        """
        with self._lock, self._store.transaction():
            run = self._store.get("run", run_id)
            if run["state"] not in ("FAILED", "CANCELED"):
                raise ConflictError(f"Run {run_id} is {run['state']}.", "Only FAILED and CANCELED runs can be retried.")
            run["_attempt"] += 1
            run.pop("finished_at", None)
            run.pop("error", None)
            self._to(run, "PENDING")

    def delete(self, run_id: str) -> None:
        """Remove a run and its files, ending its processes first."""
        with self._lock:
            self._store.get("run", run_id)
            self._attempt(self._store.get("run", run_id)).kill()
            self._store.delete("run", run_id)
            self._forget(run_id)
            shutil.rmtree(self._folder(run_id), ignore_errors=True)

    def details(self, run: Doc) -> list[Doc]:
        """Return the steps of a run as v2beta1 task details, in the order they began."""
        if run["state"] == "PENDING":
            return []
        tasks: dict[str, Doc] = {}
        for event in self._attempt(run).events():
            tasks[event["task"]] = _task(run, tasks.get(event["task"]), event)
        for task in tasks.values():
            if run["state"] in TERMINAL and task["state"] == "RUNNING":
                task["state"] = "CANCELED" if run["state"] == "CANCELED" else "FAILED"
                task["end_time"] = run["finished_at"]
                task["error"] = {"code": 13, "message": "The run ended while the step was going."}
        for task in tasks.values():
            parent = tasks.get(task.get("parent_task_id", ""))
            if parent:
                parent.setdefault("child_tasks", []).append({"task_id": task["task_id"]})
        return list(tasks.values())

    def log(self, run_id: str, step: str) -> Path:
        """Return the log file of a step, named by its task id or display name.

        :raises NotFoundError: the step did not begin.
        """
        run = self._store.get("run", run_id)
        names = [task["task_id"] for task in self.details(run) if step in (task["task_id"], task["display_name"])]
        path = self._attempt(run).log(names[0] if names else step)
        if not names or not path.is_file():
            raise NotFoundError(f"Run {run_id} has no log of step {step}.", "Only steps that began have one.")
        return path

    # -- the engine ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take notice of what has ended, go on cancelling, start what waits."""
        with self._lock:
            for _, run in self._store.select("run", _GOING):
                self._one(self._watch, run)
            free = self._parallel - self._store.count("run", _GOING)
            if free > 0:
                for _, run in self._store.select("run", "state = 'PENDING'", limit=free):
                    self._one(self._start, run)

    def _one(self, work: Callable[[Doc], None], run: Doc) -> None:
        try:
            work(run)
        except Exception:  # a full disk, no more processes: the other runs go on
            _LOG.exception("Run %s is looked at again later", run["id"])

    def going(self) -> dict[str, int]:
        """Return how many runs wait and how many go."""
        waiting = self._store.count("run", "state = 'PENDING'")
        return {"waiting": waiting, "running": self._store.count("run", _GOING)}

    def stop(self) -> None:
        """End the runs that are going; an orderly stop of the service leaves no process."""
        with self._lock:
            going = [run for _, run in self._store.select("run", _GOING)]
            for run in going:
                self._attempt(run).signal(signal.SIGTERM)
            for run in going:
                self._attempt(run).kill()
                self._finish(run, "Local KFP was stopped during the run. Retry the run.")

    def _start(self, run: Doc) -> None:
        attempt = self._attempt(run)
        earlier = self._folder(run["id"], run["_attempt"] - 1)
        # first the state, then the process: after a crash between the two the run is FAILED, never run twice
        self._to(run, "RUNNING")
        attempt.start(
            self._store.spec(run["_spec"]),
            run["_arguments"],
            self._home / "server.lock",
            earlier if run["_attempt"] > 1 and earlier.exists() else None,
        )
        self._children[run["id"]] = attempt

    def _watch(self, run: Doc) -> None:
        attempt = self._attempt(run)
        if attempt.ended():
            attempt.kill()
            ending = last_line(attempt.folder / "run.log")
            self._finish(run, f"The run's process ended without a result: {attempt.ending()}. {ending}".strip())
        elif run["state"] == "CANCELING":
            asked = self._asked.get(run["id"])
            if asked is None:
                self._asked[run["id"]] = time.monotonic()
                attempt.signal(signal.SIGTERM)
            elif time.monotonic() - asked > _GRACE:
                attempt.kill()

    def _finish(self, run: Doc, otherwise: str) -> None:
        result = self._attempt(run).result()
        if result.get("state") == "SUCCEEDED":
            run["_outputs"] = finite(result.get("outputs", {}))
            self._to(run, "SUCCEEDED")
        elif run["state"] == "CANCELING":
            self._to(run, "CANCELED")
        else:
            self._to(run, "FAILED", result.get("error") or otherwise)
        self._forget(run["id"])

    def _to(self, run: Doc, state: str, error: str = "") -> None:
        now = stamp(datetime.now(UTC))
        entry: Doc = {"update_time": now, "state": state}
        if error:
            entry["error"] = run["error"] = {"code": 13, "message": error}
        run["state"] = state
        run["state_history"] = [*run["state_history"], entry]
        if state in TERMINAL:
            run["finished_at"] = now
        with self._store.transaction():
            if run["state_history"][1:]:
                # archiving does not wait for the engine
                run["storage_state"] = self._store.get("run", run["id"])["storage_state"]
            self._store.put("run", run["id"], run)
        _tell(run, state, error)

    def _attempt(self, run: Doc) -> Attempt:
        return self._children.get(run["id"]) or Attempt(self._folder(run["id"], run["_attempt"]), run["id"])

    def _folder(self, run_id: str, attempt: int = 0) -> Path:
        folder = self._home / "runs" / run_id
        return folder / f"attempt-{attempt}" if attempt else folder

    def _forget(self, run_id: str) -> None:
        self._children.pop(run_id, None)
        self._asked.pop(run_id, None)


def _tell(run: Doc, state: str, error: str) -> None:
    """Log and count what became of a run."""
    fields = {"happened": "run", "run": run["id"], "task": run["display_name"], "status": state}
    problem = run["_arguments"].get("problem")
    fields |= {"problem": problem} if isinstance(problem, str) else {}
    fields |= {"started_by": run["description"]} if run.get("description") else {}
    _LOG.log(logging.ERROR if error else logging.INFO, "%s", error or f"the run is {state}", extra=fields)
    if state in TERMINAL:
        _ENDED.labels(state).inc()
        _SECONDS.observe((datetime.now(UTC) - datetime.fromisoformat(run["created_at"])).total_seconds())


def _task(run: Doc, task: Doc | None, event: Doc) -> Doc:
    parent, _, name = event["task"].rpartition("/")
    state = event["state"]
    entry: Doc = {"update_time": event["at"], "state": state}
    task = task or {
        "run_id": run["id"],
        "task_id": event["task"],
        "display_name": name,
        "create_time": event["at"],
        "state_history": [],
        **({"parent_task_id": parent} if parent else {}),
    }
    if state == "RUNNING":
        task["start_time"] = event["at"]
    else:
        task["end_time"] = event["at"]
    if event.get("error"):
        entry["error"] = task["error"] = {"code": 13, "message": event["error"]}
    if event.get("outputs"):
        artifacts = {key: one for key, one in event["outputs"].items() if isinstance(one, dict) and "uri" in one}
        task["outputs"] = {key: {"artifact_ids": [one["uri"]]} for key, one in artifacts.items()}
        # beyond v2beta1, which knows artifacts only; generated clients pass over it
        task["output_parameters"] = finite({key: one for key, one in event["outputs"].items() if key not in artifacts})
    task["state"] = state
    task["state_history"].append(entry)
    return task
