"""The life of a job that runs elsewhere, told once.

A job is named by a key made from dag, run, task, map index and what it is asked for, not from the try: a retry looks
for the job already going and follows it, instead of starting another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from adin.airflow.hooks import activate
from adin.errors import AdinError, NotFoundError, RunFailedError, ServiceError
from adin.logs import masked
from adin.run_key import run_key
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

#: Namespace and name of something that is read or written, as OpenLineage has them.
Address = tuple[str, str]

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"

#: How long a server may be away, or a job in a state that stands in no table, before the job is given up, seconds.
_PATIENCE = 300
#: Seconds between looks for a job whose start got no answer.
_LOOK_AGAIN = (0.5, 2, 5)


def key_of(context: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> str:
    """Return the run key of a task instance; :param asked: what it asks for, if that is part of what the work is."""
    task = context["ti"]
    place = task.map_index if task.map_index is not None else -1
    return run_key(task.dag_id, task.run_id, task.task_id, place, asked)


class KeyedOperator(BaseOperator):
    """What all our operators share: a run key, a plan, facts for asset events, lineage.

    :param renew: another text is other work: a retry goes on with what was begun, and so does a cleared task, unless
        this differs. ``{{ dag_run.clear_number }}`` makes each clearing new work. Default empty (templated).
    :param plan_only: return what would be done, as a dict, and do nothing. Default False.
    """

    template_fields: Sequence[str] = ("renew",)
    #: Services the work needs; None: all.
    connections: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, *, renew: str = "", plan_only: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.renew = renew
        self.plan_only = plan_only

    # -- what a subclass says ---------------------------------------------------------------------------------------

    def asked(self) -> dict[str, Any]:
        """Return what the work is asked for: a task that is cleared and asks for something else is other work."""
        return {}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what would be done, without doing it; default the key and what is asked for."""
        return {"run_key": key, **self.asked()}

    def facts(self, result: Any) -> dict[str, Any]:
        """Return what the events of the task's outlets say; default the result."""
        return dict(result) if isinstance(result, Mapping) else {"result": result}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return what the work reads and what it writes."""
        return [], []

    # -- what is the same for all ------------------------------------------------------------------------------------

    def key(self, context: Mapping[str, Any]) -> str:
        """Return the run key of this piece of work."""
        return key_of(context, self.asked() | ({"renew": self.renew} if self.renew else {}))

    def connect(self) -> None:
        """Let the SDK use Airflow's connections of the services the work needs."""
        if self.connections != ():
            activate(*(self.connections or ()))

    def tell(self, context: Any, result: Any) -> None:
        """Leave the facts with the asset events of the task's outlets."""
        for outlet in self.outlets or ():
            context["outlet_events"][outlet].extra = self.facts(result)

    def show(self, context: Any) -> None:
        """Let the buttons on the task's page work while it still runs."""
        for link in self.operator_extra_links:
            if address := link.get_link(self, ti_key=None):
                context["ti"].xcom_push(key=link.xcom_key, value=address)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return inputs and outputs for OpenLineage; None where its provider is not installed."""
        try:
            from airflow.providers.common.compat.openlineage.facet import Dataset
            from airflow.providers.openlineage.extractors import OperatorLineage
        except ImportError:
            return None
        inputs, outputs = ([Dataset(namespace=place, name=name) for place, name in side] for side in self.lineage())
        return OperatorLineage(inputs=inputs, outputs=outputs)


class WorkOperator(KeyedOperator):
    """Do a piece of work in this process, under its run key, with Airflow's connections.

    Subclasses say what is done in :meth:`work`; it must be safe to do twice under the same key, and to interrupt.
    """

    def execute(self, context: Any) -> Any:
        """Do the work and return its result."""
        self.connect()
        if self.plan_only:
            return self.plan(self.key(context))
        result = self.work(self.key(context), context)
        self.tell(context, result)
        return result

    def work(self, key: str, context: Any) -> Any:
        """Do the work; :param key: run key, the same for each try."""
        raise TypeError(f"{type(self).__name__} says no work.")

    def on_kill(self) -> None:
        """Interrupt the work where it is: it cleans up on its way out, and takes its child processes with it."""
        raise RunFailedError(f"{self.task_id} was killed.")


class ExternalRunOperator(KeyedOperator):
    """Start a job in another system, follow it to its end, and return its result.

    :param poll_interval: seconds between two looks at the job. Default 5.
    :param timeout: give up after this many seconds; the job is cancelled. Default 3600.
    :param deferrable: free the worker while waiting. Default Airflow's ``[operators] default_deferrable``.
    :raises RunFailedError: the job failed, was cancelled, vanished, or did not end in time.
    :raises ServiceError: the system does not answer; the next try finds the job again.
    """

    #: The system's words for a job's state; a word that is missing here is waited on for some minutes, then refused.
    states: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        poll_interval: float = 5,
        timeout: float = 3600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.deferrable = deferrable
        self._key: str | None = None
        self._job: str | None = None
        self._killed = False

    # -- what a subclass says ---------------------------------------------------------------------------------------

    def find(self, key: str) -> str | None:
        """Return the id of the job that carries this key and goes or has succeeded, if there is one."""
        raise TypeError(f"{type(self).__name__} says not how a job is found.")

    def submit(self, key: str) -> str:
        """Start the job under this key and return its id."""
        raise TypeError(f"{type(self).__name__} says not how a job is started.")

    def state(self, job: str) -> str:
        """Return the system's word for the job's state.

        :raises NotFoundError: the system knows no such job.
        """
        raise TypeError(f"{type(self).__name__} says not how a job is.")

    def result(self, job: str) -> Any:
        """Return what the job made; default its id."""
        return job

    def failure(self, job: str, word: str) -> Exception:
        """Return the error for a job that ended badly."""
        return RunFailedError(f"Job {job} ended {word}.")

    def said(self, job: str) -> Iterator[str]:
        """Yield the lines of the log of a job that has ended; default none."""
        yield from ()

    def cancel(self, job: str) -> None:
        """Stop the job."""

    def link(self, job: str) -> str:
        """Return the address of the job's page; empty where it has none."""
        return ""

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what the trigger needs to ask for the state in the operator's stead."""
        return {}

    # -- the life -----------------------------------------------------------------------------------------------------

    def execute(self, context: Any) -> Any:
        """Find or start the job and follow it."""
        self.connect()
        deadline = time.time() + self.timeout
        self._key = self.key(context)
        if self.plan_only:
            return self.plan(self._key) | {"job": self.find(self._key)}
        job = self._job = self._adopt(self._key, context) or self._start(self._key)
        self._store(context, job)
        if self._killed:
            self.cancel(job)
            raise RunFailedError(f"{self.task_id} was killed while job {job} was being started; it was cancelled.")
        if self.deferrable and Watch(self, job).verdict() is None:
            self._wait(job, deadline)
        return self._end(context, job, deadline)

    def resume(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after the wait: the job's own system is asked again how it ended."""
        self.connect()
        self._key, self._job = self.key(context), event["job"]
        return self._end(context, event["job"], event["deadline"])

    def on_kill(self) -> None:
        """Cancel the job, also one that is just being started."""
        self._killed = True
        job = self._job or (self.find(self._key) if self._key else None)
        if job:
            self.cancel(job)

    def _adopt(self, key: str, context: Any) -> str | None:
        job = self.find(key) or self._stored(context, key)
        if job:
            self.log.info("job %s is this task's, by its key %s", job, key)
        return job

    def _start(self, key: str) -> str:
        try:
            job = self.submit(key)
        except ServiceError:
            # the request may have arrived although its answer did not
            for pause in _LOOK_AGAIN:
                time.sleep(pause)
                if job := self.find(key) or "":
                    return job
            raise
        self.log.info("job %s started under key %s", job, key)
        return job

    def _wait(self, job: str, deadline: float) -> None:
        """Leave the worker and wait in the triggerer."""
        trigger = ExternalRunTrigger(
            operator=f"{type(self).__module__}.{type(self).__qualname__}",
            arguments=self.trigger_arguments(),
            job=job,
            poll_interval=self.poll_interval,
            deadline=deadline,
        )
        # no timeout of Airflow's: it would leave the job running; the trigger keeps the deadline itself
        self.defer(trigger=trigger, method_name="resume")

    def _end(self, context: Any, job: str, deadline: float) -> Any:
        result = self._follow(job, deadline)
        self.tell(context, result)
        return result

    def _follow(self, job: str, deadline: float) -> Any:
        watch = Watch(self, job)
        while (verdict := watch.verdict()) is None:
            if time.time() > deadline:
                self.cancel(job)
                raise RunFailedError(f"Job {job} did not end within {self.timeout:.0f} s and was cancelled.")
            if self.deferrable and self.states.get(watch.word) == RUNNING:
                self._wait(job, deadline)  # the server was away for longer than the trigger bears, and is back
            time.sleep(self.poll_interval)
        self._repeat(job)
        if verdict == FAILED:
            raise self.failure(job, watch.word)
        return self.result(job)

    def _repeat(self, job: str) -> None:
        """Repeat the job's log in the task's: who looks at the task sees it, and a search by Airflow's run finds it."""
        try:
            for line in self.said(job):
                self.log.info("%s", masked(line))
        except AdinError as error:
            self.log.warning("the log of job %s is not here: %s", job, error)

    def _store(self, context: Any, job: str) -> None:
        context["ti"].xcom_push(key="job", value=job)
        self.show(context)
        if (store := context.get("task_state_store")) is not None:
            store.set(self._key, job)

    def _stored(self, context: Any, key: str) -> str | None:
        """Return the job an earlier try stored, unless it ended badly or is gone: then the work begins anew."""
        store = context.get("task_state_store")
        job = store.get(key) if store is not None else None
        if not job:
            return None
        try:
            return job if self.states.get(self.state(job)) != FAILED else None
        except NotFoundError:
            return None


class Watch:
    """One job under observation: bears a server that is away and words nobody knows for a while, not for ever.

    :param operator: knows how to ask.
    :param job: the job's id.
    """

    def __init__(self, operator: ExternalRunOperator, job: str) -> None:
        self._operator = operator
        self._job = job
        self._puzzled_since: float | None = None
        self.word = ""

    def verdict(self) -> str | None:
        """Look once; return SUCCEEDED or FAILED for a job that has ended, else None.

        :raises RunFailedError: the job has vanished, or has been in an unknown state for too long.
        :raises ServiceError: the server has been away for too long.
        """
        try:
            self.word = self._operator.state(self._job)
        except NotFoundError as error:
            raise RunFailedError(f"Job {self._job} has vanished: {error}", "The next try starts it anew.") from None
        except ServiceError as error:
            self._bear(error)
            return None
        known = self._operator.states.get(self.word)
        if known is None:
            self._bear(
                RunFailedError(f"Job {self._job} is {self.word!r}, which is no state we know; it was cancelled.")
            )
        else:
            self._puzzled_since = None
        return None if known == RUNNING else known

    def _bear(self, error: AdinError) -> None:
        now = time.monotonic()
        self._puzzled_since = self._puzzled_since or now
        if now - self._puzzled_since > _PATIENCE:
            if isinstance(error, RunFailedError):
                self._operator.cancel(self._job)
            raise error


class ExternalRunTrigger(BaseTrigger):
    """Wait in the triggerer until a job has ended; a user who kills the task cancels the job.

    :param operator: class of the operator, as ``module.Class``.
    :param arguments: keyword arguments for it.
    :param job: the job's id.
    :param poll_interval: seconds between two looks.
    :param deadline: when the wait ends whatever the job does, seconds since 1970.
    """

    def __init__(
        self, operator: str, arguments: dict[str, Any], job: str, poll_interval: float, deadline: float
    ) -> None:
        super().__init__()
        self.operator = operator
        self.arguments = arguments
        self.job = job
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        names = ("operator", "arguments", "job", "poll_interval", "deadline")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the job has ended, or when waiting makes no more sense: the task sees for itself."""
        watch = Watch(await asyncio.to_thread(self._asker), self.job)
        with contextlib.suppress(AdinError):
            while await asyncio.to_thread(watch.verdict) is None and time.time() <= self.deadline:
                await asyncio.sleep(self.poll_interval)
        yield TriggerEvent({"job": self.job, "deadline": self.deadline})

    async def on_kill(self) -> None:
        """Cancel the job."""
        asker = await asyncio.to_thread(self._asker)
        await asyncio.to_thread(asker.cancel, self.job)

    def _asker(self) -> ExternalRunOperator:
        from airflow.sdk.module_loading import import_string

        kind = import_string(self.operator)
        asker: ExternalRunOperator = kind(task_id="trigger", **self.arguments)
        asker.connect()
        return asker


class JobLink(BaseOperatorLink):
    """The button on a task's page that leads to its job."""

    name = "Job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the job's page."""
        return operator.link(operator._job) if operator._job else ""
