"""Servers killed in the middle of the line: it takes longer, and does nothing twice."""

from __future__ import annotations

import os
import signal
import time

import pytest
import redis_content
from adin import datasets
from adin.datasets.clickhouse import clickhouse
from adin.features import hive
from adin.models import registry
from adin.stack import control

PROBLEM = "flights_delay"
#: Half a year: long enough to be in the middle of something, short enough for a test.
HALF = {"window_start": "2013-01-01T00:00:00Z", "window_end": "2013-07-01T00:00:00Z"}
#: Which servers are killed, one after the other, while which task runs.
KILLS = {
    "dataset": ("metastore", "lakefs"),
    "explore": ("s3",),
    "train": ("redis", "kfp", "kserve", "airflow-scheduler"),
}


@pytest.mark.flow(7, 13, 14, 16)
def test_servers_killed_in_the_middle_leave_one_commit_one_version_and_no_row_twice(line, airflow):
    before = {found.commit for found in datasets.versions(PROBLEM)}
    known = set(registry().state(PROBLEM).versions)
    airflow.start("train__flights_delay", "acceptance-faults", HALF)
    for task, services in KILLS.items():
        _wait_until_running(airflow, task)
        for service in services:
            _kill(service)
    airflow.wait("train__flights_delay", "acceptance-faults", timeout=1800, progress=print)
    made = [found for found in datasets.versions(PROBLEM) if found.commit not in before]
    assert len(made) == 1
    version = set(registry().state(PROBLEM).versions) - known
    assert len(version) == 1
    assert registry().version(PROBLEM, version.pop()).manifest.dataset == made[0].commit
    with clickhouse() as client:
        rows = client.query(
            f"SELECT split, count() FROM datasets.{PROBLEM} WHERE _commit = '{made[0].commit}' GROUP BY split"
        )
    assert dict(rows.result_rows) == made[0].rows
    assert hive.tables("adin_tmp") == {}


@pytest.mark.flow(9, 11)
def test_redis_killed_while_features_come_online_holds_afterwards_what_it_would_have_held(line, airflow):
    before = redis_content.content()
    window = {"window_start": "2013-12-31T00:00:00Z", "window_end": "2014-01-01T00:00:00Z"}
    airflow.start("features__flights", "acceptance-redis", window)
    _wait_until_running(airflow, "materialize.", "features__flights", "acceptance-redis")
    _kill("redis")
    airflow.wait("features__flights", "acceptance-redis", timeout=900, progress=print)
    assert redis_content.content() == before


def _wait_until_running(airflow, task: str, dag: str = "train__flights_delay", run: str = "acceptance-faults") -> None:
    """Wait until a task whose id begins so runs, or has ended well before one could look."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        found = {each["task_id"]: each["state"] for each in airflow.tasks(dag, run)}
        if any(name.startswith(task) and state in {"running", "deferred", "success"} for name, state in found.items()):
            return
        time.sleep(0.3)
    raise AssertionError(f"{task} never ran: {found}")


def _kill(service: str) -> None:
    """Kill a server and wait until the supervisor has brought it back and it is well."""
    pid = next(health.pid for health in control.status() if health.name == service)
    assert pid
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 180
    while time.monotonic() < end:
        health = next(health for health in control.status() if health.name == service)
        if health.pid not in (None, pid) and health.latency is not None:
            assert health.restarts >= 1
            return
        time.sleep(0.5)
    raise AssertionError(f"{service} did not come back: {health}")
