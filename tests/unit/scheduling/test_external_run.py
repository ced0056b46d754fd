"""The life of an external job, against a system that lives in this test only."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest
from adin.errors import NotFoundError, RunFailedError, ServiceError
from airflow.sdk.exceptions import TaskDeferred

from operators import external_run
from operators.external_run import FAILED, RUNNING, SUCCEEDED, ExternalRunOperator, key_of


class Remote:
    """Jobs by key; each word of ``story`` is told once, the last one for ever; an error is raised instead.

    :param lose_reply: a job starts, but the answer to its start is lost.
    """

    def __init__(self, *story: str | Exception, lose_reply: bool = False) -> None:
        self.story = list(story)
        self.lose_reply = lose_reply
        self.jobs: dict[str, str] = {}
        self.cancelled: list[str] = []

    def tell(self) -> str:
        word = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        if isinstance(word, Killed):
            word.task.on_kill()
            return "GOING"
        if isinstance(word, Exception):
            raise word
        return word


REMOTE = Remote("DONE")


class JobOperator(ExternalRunOperator):
    states: ClassVar = {"GOING": RUNNING, "DONE": SUCCEEDED, "BROKEN": FAILED, "CANCELLED": FAILED}

    def find(self, key):
        return REMOTE.jobs.get(key)

    def submit(self, key):
        REMOTE.jobs[key] = f"job-{len(REMOTE.jobs) + 1}"
        if REMOTE.lose_reply:
            raise ServiceError("connection reset")
        return REMOTE.jobs[key]

    def state(self, job):
        return REMOTE.tell()

    def result(self, job):
        return {"made by": job}

    def cancel(self, job):
        REMOTE.cancelled.append(job)
        REMOTE.story = ["CANCELLED"]


class Killed(ServiceError):
    """Stands in a story for the moment at which Airflow kills the task."""

    def __init__(self, task):
        super().__init__("killed")
        self.task = task


class Store(dict):
    """Airflow's task state store."""

    def set(self, key, value):
        self[key] = value


@pytest.fixture(autouse=True)
def _no_connections_and_no_patience(monkeypatch):
    monkeypatch.setattr(external_run, "activate", lambda *names: None)
    monkeypatch.setattr(external_run, "_PATIENCE", 0.05)
    monkeypatch.setattr(external_run, "_LOOK_AGAIN", (0, 0.01))


@pytest.fixture
def remote(monkeypatch):
    def become(*story: str | Exception, **kwargs) -> Remote:
        found = Remote(*story, **kwargs)
        monkeypatch.setitem(globals(), "REMOTE", found)
        return found

    return become


def context(run_id="scheduled__1", map_index=-1, store=None):
    task = SimpleNamespace(dag_id="d", run_id=run_id, task_id="t", map_index=map_index, xcom_push=lambda **_: None)
    return {"ti": task, "task_state_store": store}


def operator(**kwargs):
    return JobOperator(task_id="t", poll_interval=0.01, **kwargs)


def deferred(**kwargs):
    with pytest.raises(TaskDeferred) as found:
        operator(deferrable=True, **kwargs).execute(context())
    return found.value.trigger


def event_of(trigger):
    """Run a trigger to its event, as made anew from what Airflow stores of it."""
    path, arguments = trigger.serialize()
    assert path == "operators.external_run.ExternalRunTrigger"

    async def first():
        async for event in type(trigger)(**arguments).run():
            return event.payload

    return asyncio.run(first())


def test_a_fresh_task_starts_one_job_and_returns_its_result(remote):
    system = remote("GOING", "DONE")
    assert operator().execute(context()) == {"made by": "job-1"}
    assert len(system.jobs) == 1


@pytest.mark.parametrize("story", [("GOING", "DONE"), ("DONE",)], ids=["still going", "ended while nobody looked"])
def test_a_retry_adopts_the_job_and_returns_its_result(remote, story):
    system = remote(*story)
    system.jobs[key_of(context())] = "job-7"
    assert operator().execute(context()) == {"made by": "job-7"}
    assert list(system.jobs.values()) == ["job-7"]


def test_another_run_or_mapped_task_is_another_job(remote):
    system = remote("DONE")
    for run, index in (("a", -1), ("b", -1), ("a", 0)):
        operator().execute(context(run, index))
    assert len(system.jobs) == 3


@pytest.mark.parametrize("word", ["BROKEN", "CANCELLED"])
def test_a_job_that_failed_or_was_cancelled_outside_fails_the_task(remote, word):
    remote("GOING", word)
    with pytest.raises(RunFailedError, match=word):
        operator().execute(context())


def test_a_state_nobody_knows_is_waited_on_to_a_limit_and_never_taken_for_success(remote):
    remote("SOMETHING NEW")
    with pytest.raises(RunFailedError, match="SOMETHING NEW"):
        operator().execute(context())


def test_a_job_that_takes_too_long_is_cancelled(remote):
    system = remote("GOING")
    with pytest.raises(RunFailedError, match="cancelled"):
        operator(timeout=0.03).execute(context())
    assert system.cancelled == ["job-1"]


def test_killing_the_task_cancels_the_job(remote):
    system = remote("GOING")
    task = operator()
    system.story = [Killed(task), "GOING"]
    with pytest.raises(RunFailedError, match="CANCELLED"):
        task.execute(context())
    assert system.cancelled == ["job-1"]


def test_killing_the_task_while_the_job_is_being_started_cancels_it_too(remote, monkeypatch):
    system = remote("GOING")
    task = operator()
    start = task.submit
    monkeypatch.setattr(task, "submit", lambda key: task.on_kill() or start(key))
    with pytest.raises(RunFailedError, match="being started"):
        task.execute(context())
    assert system.cancelled == ["job-1"]


def test_a_lost_reply_to_the_start_adopts_the_job_that_started(remote):
    system = remote("GOING", "DONE", lose_reply=True)
    assert operator().execute(context()) == {"made by": "job-1"}
    assert len(system.jobs) == 1


def test_a_start_that_never_arrived_is_tried_again_by_the_next_try(remote, monkeypatch):
    remote("DONE")
    task = operator()
    monkeypatch.setattr(task, "submit", lambda key: (_ for _ in ()).throw(ServiceError("refused")))
    with pytest.raises(ServiceError):
        task.execute(context())
    assert operator().execute(context()) == {"made by": "job-1"}


def test_a_job_is_found_by_its_stored_id_where_the_system_forgets_names(remote):
    system, store = remote("GOING", "DONE"), Store()
    operator().execute(context(store=store))
    system.jobs.clear()
    assert operator().execute(context(store=store)) == {"made by": "job-1"}
    assert system.jobs == {}


@pytest.mark.parametrize("fate", ["BROKEN", NotFoundError("no such job")], ids=["failed", "gone"])
def test_a_stored_job_that_failed_or_is_gone_is_started_anew(remote, fate):
    system, store = remote(fate, "DONE"), Store({key_of(context()): "job-0"})
    assert operator().execute(context(store=store)) == {"made by": "job-1"}
    assert store[key_of(context())] == "job-1"
    assert len(system.jobs) == 1


def test_a_task_that_asks_for_something_else_than_before_starts_another_job(remote, monkeypatch):
    system, store = remote("DONE"), Store()
    for commit in ("old", "old", "new", "new"):
        monkeypatch.setattr(JobOperator, "asked", lambda self, commit=commit: {"commit": commit})
        operator().execute(context(store=store))
    assert list(system.jobs.values()) == ["job-1", "job-2"]


def test_a_server_that_is_away_for_a_while_is_waited_for(remote):
    away = ServiceError("no answer")
    system = remote("GOING", away, away, "GOING", "DONE")
    assert operator().execute(context()) == {"made by": "job-1"}
    assert system.cancelled == []


def test_a_server_that_stays_away_fails_the_try_and_leaves_the_job(remote):
    system = remote("GOING", ServiceError("no answer"))
    with pytest.raises(ServiceError):
        operator().execute(context())
    assert system.cancelled == []


def test_a_job_that_vanished_fails_the_task(remote):
    remote("GOING", NotFoundError("no such job"))
    with pytest.raises(RunFailedError, match="vanished"):
        operator().execute(context())


@pytest.mark.flow(22)
def test_a_deferred_task_frees_its_worker_and_resumes_with_the_result(remote):
    system = remote("GOING", "GOING", ServiceError("no answer"), "DONE")
    event = event_of(deferred())
    assert event["job"] == "job-1"
    assert operator().resume(context(), event) == {"made by": "job-1"}
    assert len(system.jobs) == 1


def test_a_deferred_job_that_fails_fails_the_task(remote):
    remote("GOING", "GOING", "BROKEN")
    event = event_of(deferred())
    with pytest.raises(RunFailedError, match="BROKEN"):
        operator().resume(context(), event)


def test_a_deferred_job_that_takes_too_long_is_cancelled(remote):
    system = remote("GOING")
    event = event_of(deferred(timeout=0.05))
    assert event["deadline"] < time.time()
    with pytest.raises(RunFailedError, match="cancelled"):
        operator().resume(context(), event)
    assert system.cancelled == ["job-1"]


def test_killing_a_deferred_task_cancels_the_job(remote):
    system = remote("GOING")
    trigger = deferred()
    asyncio.run(trigger.on_kill())
    assert system.cancelled == ["job-1"]


def test_a_retry_of_a_deferred_task_adopts_the_job(remote):
    system = remote("GOING")
    deferred()
    deferred()
    assert len(system.jobs) == 1


def test_a_job_that_is_done_at_once_is_not_waited_for(remote):
    remote("DONE")
    assert operator(deferrable=True).execute(context()) == {"made by": "job-1"}
