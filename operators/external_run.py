"""The life of a job that runs elsewhere, told once.

A job is named by a key made from dag, run, task and map index, not from the try: a retry looks for the job already
going and follows it, instead of starting another.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from adin.airflow.hooks import activate
from adin.errors import RunFailedError
from adin.run_key import run_key
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"

#: How long an answer that is in no table of states may last before the job is given up, seconds.
_UNKNOWN_FOR = 300


def key_of(context: Mapping[str, Any]) -> str:
    """Return the run key of a task instance."""
    task = context["ti"]
    return run_key(task.dag_id, task.run_id, task.task_id, task.map_index if task.map_index is not None else -1)


class WorkOperator(BaseOperator):
    """Do a piece of work in this process, under its run key, with Airflow's connections.

    Subclasses say what is done in :meth:`work`; it must be safe to do twice under the same key.

    :param connections: services the work needs; default all.
    """

    connections: ClassVar[tuple[str, ...]] = ()

    def execute(self, context: Any) -> Any:
        """Do the work and return its result."""
        activate(*self.connections)
        return self.work(key_of(context), context)

    def work(self, key: str, context: Any) -> Any:
        """Do the work; :param key: run key, the same for each try."""
        raise TypeError(f"{type(self).__name__} says no work.")


class ExternalRunOperator(BaseOperator):
    """Start a job in another system, follow it to its end, and return its result.

    :param poll_interval: seconds between two looks at the job. Default 5.
    :param timeout: give up after this many seconds; the job is cancelled. Default 3600.
    :param deferrable: free the worker while waiting. Default False.
    :raises RunFailedError: the job failed, was cancelled, vanished, or did not end in time.
    """

    #: The system's words for a job's state; a word that is missing here is waited on for some minutes, then refused.
    states: ClassVar[Mapping[str, str]] = {}
    connections: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *, poll_interval: float = 5, timeout: float = 3600, deferrable: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.deferrable = deferrable
        self._job: str | None = None

    def find(self, key: str) -> str | None:
        """Return the id of the job that carries this key, if there is one."""
        raise TypeError(f"{type(self).__name__} says not how a job is found.")

    def submit(self, key: str) -> str:
        """Start the job under this key and return its id."""
        raise TypeError(f"{type(self).__name__} says not how a job is started.")

    def state(self, job: str) -> str:
        """Return the system's word for the job's state."""
        raise TypeError(f"{type(self).__name__} says not how a job is.")

    def result(self, job: str) -> Any:
        """Return what the job made; default its id."""
        return job

    def failure(self, job: str, word: str) -> Exception:
        """Return the error for a job that ended badly."""
        return RunFailedError(f"Job {job} ended {word}.")

    def cancel(self, job: str) -> None:
        """Stop the job."""

    def execute(self, context: Any) -> Any:
        """Find or start the job and follow it."""
        activate(*self.connections)
        key = key_of(context)
        self._job = self.find(key)
        if self._job:
            self.log.info("job %s goes on: it carries this task's key %s", self._job, key)
        else:
            self._job = self.submit(key)
            self.log.info("job %s started under key %s", self._job, key)
        context["ti"].xcom_push(key="job", value=self._job)
        if self.deferrable and self._verdict(self._job) is None:
            trigger = ExternalRunTrigger(
                operator=f"{type(self).__module__}.{type(self).__qualname__}",
                arguments=self.trigger_arguments(),
                job=self._job,
                poll_interval=self.poll_interval,
            )
            self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))
        return self._follow(self._job)

    def resume(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after the wait: the job's own system is asked again how it ended."""
        activate(*self.connections)
        self._job = event["job"]
        return self._follow(event["job"])

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what the trigger needs to ask for the state in the operator's stead."""
        return {}

    def on_kill(self) -> None:
        """Cancel the job when the task is killed."""
        if self._job:
            self.cancel(self._job)

    def _verdict(self, job: str) -> str | None:
        """Return SUCCEEDED or FAILED for a job that has ended, RUNNING as None."""
        known = self.states.get(self.state(job))
        return None if known in (RUNNING, None) else known

    def _follow(self, job: str) -> Any:
        end = time.monotonic() + self.timeout
        unknown_since: float | None = None
        while True:
            word = self.state(job)
            known = self.states.get(word)
            if known == SUCCEEDED:
                return self.result(job)
            if known == FAILED:
                raise self.failure(job, word)
            unknown_since = None if known else unknown_since or time.monotonic()
            if unknown_since and time.monotonic() - unknown_since > _UNKNOWN_FOR:
                raise RunFailedError(f"Job {job} is {word!r}, which is no state we know.")
            if time.monotonic() > end:
                self.cancel(job)
                raise RunFailedError(f"Job {job} did not end within {self.timeout:.0f} s and was cancelled.")
            time.sleep(self.poll_interval)


class ExternalRunTrigger(BaseTrigger):
    """Wait in the triggerer until a job has ended; a user who kills the task cancels the job.

    :param operator: class of the operator, as ``module.Class``.
    :param arguments: keyword arguments for it.
    :param job: the job's id.
    :param poll_interval: seconds between two looks.
    """

    def __init__(self, operator: str, arguments: dict[str, Any], job: str, poll_interval: float) -> None:
        super().__init__()
        self.operator = operator
        self.arguments = arguments
        self.job = job
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        values = {name: getattr(self, name) for name in ("operator", "arguments", "job", "poll_interval")}
        return f"{type(self).__module__}.{type(self).__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the job has ended."""
        import asyncio

        asker = await asyncio.to_thread(self._asker)
        while await asyncio.to_thread(asker._verdict, self.job) is None:
            await asyncio.sleep(self.poll_interval)
        yield TriggerEvent({"job": self.job})

    async def on_kill(self) -> None:
        """Cancel the job."""
        import asyncio

        asker = await asyncio.to_thread(self._asker)
        await asyncio.to_thread(asker.cancel, self.job)

    def _asker(self) -> ExternalRunOperator:
        from airflow.sdk.module_loading import import_string

        kind = import_string(self.operator)
        asker: ExternalRunOperator = kind(task_id="trigger", **self.arguments)
        activate(*asker.connections)
        return asker
