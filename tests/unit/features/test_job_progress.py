"""What a Spark job writes down of its progress is told as rows, rate and time left, wherever its driver runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from adin.connections import Connection
from adin.errors import ConflictError, NotFoundError, ServiceError
from adin.features import clusters, jobs, online

pytestmark = pytest.mark.flow(9)
LOCAL = Connection("spark", "local[2]", extra={"namenode": "hdfs://n", "metastore": "thrift://m", "warehouse": "/w"})
ROWS = 1000


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(online.time, "monotonic", lambda: self.now)


class Files:
    """HDFS: a dictionary."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: dict[str, bytes] = {}
        self.away = False
        monkeypatch.setattr(jobs.hdfs, "read", self._read)
        monkeypatch.setattr(jobs.hdfs, "delete", lambda path: self.kept.pop(path, None))

    def put(self, name: str, **told: Any) -> None:
        self.kept[f"/adin/jobs/{name}"] = json.dumps(told).encode()

    def _read(self, path: str) -> bytes:
        if self.away and path.endswith(".progress"):
            raise ServiceError("away")
        if path not in self.kept:
            raise NotFoundError(path)
        return self.kept[path]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


def told_of(monkeypatch: pytest.MonkeyPatch, *written: tuple[float, int, int]) -> list[str]:
    """Return what is said of what a job wrote down: when, rows read, rows written."""
    clock, said = Clock(monkeypatch), []
    teller = online._JobTeller(lambda progress: said.append(str(progress)), ROWS)
    for now, read, done in written:
        clock.now = now
        teller.hear({"read": read, "written": done})
    clock.now += 5
    teller.end()
    return said


def test_rows_rate_and_time_left_are_told_of_reading_and_then_of_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(1.0, 100, 0), (4.0, 400, 0), (6.0, 400, 0), (10.0, 1000, 0), (20.0, 1000, 500), (25.0, 1000, 750)]
    assert told_of(monkeypatch, *steps) == [
        "read 400 of 1,000 rows, 100 rows/s, 6 s left",
        "read 1,000 of 1,000 rows, 100 rows/s",
        "write 500 of 1,000 rows, 50 rows/s, 10 s left",
        "write 750 of 1,000 rows, 50 rows/s, 5 s left",
        "write 1,000 of 1,000 rows, 50 rows/s",
    ]


def test_what_was_written_before_anybody_looked_does_not_make_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told_of(monkeypatch, (10.0, 300, 600), (15.0, 300, 700))
    assert said[0].startswith("read 1,000 of 1,000 rows")
    assert said[1] == "write 700 of 1,000 rows, 20 rows/s, 15 s left"


def test_a_job_that_told_nothing_is_told_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_of(monkeypatch) == ["read 1,000 of 1,000 rows, 200 rows/s"]


def test_a_child_of_ours_is_asked_while_it_runs_and_what_an_earlier_one_told_is_not_heard(
    monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    def submitted(*parts: Any) -> tuple[int, str]:
        look: Callable[[], None] = parts[-1]
        assert json.loads(parts[3])["progress"] == "/adin/jobs/k.progress"
        look()
        files.put("k.progress", read=1, written=0)
        look()
        files.away = True
        look()
        files.away = False
        files.put("k.progress", read=2, written=1)
        look()
        files.put("k.json", keys=7)
        return 0, ""

    monkeypatch.setattr(jobs, "spark_submit", submitted)
    files.put("k.progress", read=99, written=99)
    heard: list[Any] = []
    assert jobs.run("materialize", key="k", arguments={}, conn=LOCAL, on_progress=heard.append) == {"keys": 7}
    assert heard == [{}, {"read": 1, "written": 0}, {}, {"read": 2, "written": 1}]
    jobs.forget("k")
    assert files.kept == {}


def test_an_application_of_a_cluster_is_asked_between_two_looks_at_its_state(
    monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    class Far:
        states = clusters.Yarn.states
        words = iter(["ACCEPTED", "RUNNING", "SUCCEEDED"])

        def find(self, key: str) -> str:
            return "app_1"

        def state(self, application: str) -> str:
            word = next(self.words)
            if word == "RUNNING":
                files.put("k.progress", read=5, written=0)
            if word == "SUCCEEDED":
                files.put("k.json", keys=7)
            return word

    monkeypatch.setattr(jobs.clusters, "of", lambda conn: Far())
    monkeypatch.setattr(jobs, "_PAUSE", 0)
    monkeypatch.setattr(jobs, "find", lambda cluster, key: cluster.find(key))
    heard: list[Any] = []
    conn = replace(LOCAL, host="yarn")
    assert jobs.run("materialize", key="k", arguments={}, conn=conn, on_progress=heard.append) == {"keys": 7}
    assert heard == [{}, {"read": 5, "written": 0}]


def test_what_the_listener_raises_stops_the_application(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    class Far:
        states = clusters.Yarn.states
        stopped = ""

        def state(self, application: str) -> str:
            return "RUNNING"

        def cancel(self, application: str) -> None:
            self.stopped = application

    def hear(told: Any) -> None:
        raise ConflictError("The load was held up.")

    far = Far()
    monkeypatch.setattr(jobs.clusters, "of", lambda conn: far)
    monkeypatch.setattr(jobs, "find", lambda cluster, key: "app_1")
    with pytest.raises(ConflictError):
        jobs.run("materialize", key="k", arguments={}, conn=replace(LOCAL, host="yarn"), on_progress=hear)
    assert far.stopped == "app_1"
