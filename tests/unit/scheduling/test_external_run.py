"""The life of an external job, against a system that lives in this test only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
from adin.airflow.params import check_conf
from adin.errors import ConfigError, RunFailedError
from airflow.sdk.exceptions import TaskDeferred

from operators import external_run
from operators.external_run import FAILED, RUNNING, SUCCEEDED, ExternalRunOperator, key_of


class Remote:
    """Jobs by id; each word of ``story`` is told once, the last one for ever."""

    def __init__(self, *story: str) -> None:
        self.story = list(story)
        self.jobs: dict[str, str] = {}
        self.cancelled: list[str] = []

    def tell(self) -> str:
        return self.story.pop(0) if len(self.story) > 1 else self.story[0]


REMOTE = Remote("DONE")


class JobOperator(ExternalRunOperator):
    states: ClassVar = {"GOING": RUNNING, "DONE": SUCCEEDED, "BROKEN": FAILED, "CANCELLED": FAILED}

    def find(self, key):
        return REMOTE.jobs.get(key)

    def submit(self, key):
        REMOTE.jobs[key] = f"job-{len(REMOTE.jobs) + 1}"
        return REMOTE.jobs[key]

    def state(self, job):
        return REMOTE.tell()

    def result(self, job):
        return {"made by": job}

    def cancel(self, job):
        REMOTE.cancelled.append(job)


@pytest.fixture(autouse=True)
def _no_connections(monkeypatch):
    monkeypatch.setattr(external_run, "activate", lambda *names: None)
    monkeypatch.setattr(external_run, "_UNKNOWN_FOR", 0.05)


@pytest.fixture
def remote(monkeypatch):
    def become(*story: str) -> Remote:
        found = Remote(*story)
        monkeypatch.setitem(globals(), "REMOTE", found)
        return found

    return become


def context(run_id="scheduled__1", map_index=-1):
    task = SimpleNamespace(dag_id="d", run_id=run_id, task_id="t", map_index=map_index, xcom_push=lambda **_: None)
    return {"ti": task}


def operator(**kwargs):
    return JobOperator(task_id="t", poll_interval=0.01, **kwargs)


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
    system = remote("GOING", "DONE")
    task = operator()
    task.execute(context())
    task.on_kill()
    assert system.cancelled == ["job-1"]


def test_a_deferred_task_frees_its_worker_and_resumes_with_the_result(remote):
    remote("GOING", "DONE")
    with pytest.raises(TaskDeferred) as deferred:
        operator(deferrable=True).execute(context())
    path, arguments = deferred.value.trigger.serialize()
    assert path.endswith("ExternalRunTrigger")
    assert arguments["job"] == "job-1"
    assert operator().resume(context(), {"job": "job-1"}) == {"made by": "job-1"}


def test_a_job_that_is_done_at_once_is_not_waited_for(remote):
    remote("DONE")
    assert operator(deferrable=True).execute(context()) == {"made by": "job-1"}


def _trigger(conf):
    return {"dag": SimpleNamespace(params={"rows": 1}), "dag_run": SimpleNamespace(conf=conf)}


def test_an_unknown_key_in_a_runs_configuration_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"rowz.*rows"):
        check_conf(_trigger({"rowz": 1}))


@pytest.mark.parametrize("conf", [None, {}, {"rows": 2}])
def test_known_keys_pass(conf):
    check_conf(_trigger(conf))
