"""Training waits for its hours and for free resources, by what problem.yaml says."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import psutil
import pytest
from adin.airflow import slot
from adin.errors import ConfigError
from adin.problem import problem
from adin.settings import ROOT, settings
from adin.slot import OffPeak, size, taken
from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.flow(22)

NIGHT = "22:00-06:00 Asia/Tehran"  # UTC+03:30: 18:30 to 02:30


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """Return a function that gives problem flights_delay another ``run``."""
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()
    text = (ROOT / "include" / "problems" / "flights_delay" / "problem.yaml").read_text()
    (tmp_path / "flights_delay").mkdir()

    def write(run: str):
        changed = re.sub(r"^run: .*$", f"run: {run}", text, flags=re.MULTILINE)
        (tmp_path / "flights_delay" / "problem.yaml").write_text(changed)
        return problem("flights_delay")

    yield write
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.parametrize(
    ("instant", "holds"),
    [
        ("2013-01-10T18:29", False),
        ("2013-01-10T18:30", True),
        ("2013-01-10T23:59", True),
        ("2013-01-11T00:00", True),
        ("2013-01-11T02:29", True),
        ("2013-01-11T02:30", False),
    ],
)
def test_off_peak_hours_go_over_midnight_in_their_own_time_zone(instant, holds):
    assert OffPeak.parse(NIGHT).holds(at(instant)) is holds


def test_the_hours_follow_the_clock_change_of_their_zone():
    hours = OffPeak.parse("01:00-05:00 Europe/London")
    assert hours.holds(at("2013-01-10T01:00")) and not hours.holds(at("2013-01-10T00:30"))
    assert hours.holds(at("2013-07-10T00:00")) and not hours.holds(at("2013-07-10T04:00"))


def test_hours_within_one_day_and_when_they_open_next():
    hours = OffPeak.parse("9:00-17:00 UTC")
    assert hours.opens(at("2013-01-10T12:00")) == at("2013-01-10T12:00")
    assert hours.opens(at("2013-01-10T17:00")) == at("2013-01-11T09:00")
    assert OffPeak.parse(NIGHT).opens(at("2013-01-11T02:30:30")) == at("2013-01-11T18:30")


@pytest.mark.parametrize(
    "run",
    [
        '{off_peak: "22:00 Asia/Tehran"}',
        '{off_peak: "22:00-26:00 UTC"}',
        '{off_peak: "22:00-06:00 Asia/Teheran"}',
        '{off_peak: "22:00-22:00 UTC"}',
        "{free: {cpu: -1}}",
        '{cron: "0 4 * * *", owner: kfp, off_peak: "22:00-06:00 UTC"}',
    ],
)
def test_hours_and_resources_that_cannot_be_are_refused_with_their_line(shipped, run):
    with pytest.raises(ConfigError, match=r"line 12, run"):
        shipped(run)


def test_training_starts_in_the_hours_only_unless_a_person_says_at_once(shipped):
    spec = shipped(f'{{off_peak: "{NIGHT}"}}')
    day, night = at("2013-01-10T12:00"), at("2013-01-10T22:00")
    assert [slot.may_start(spec, now=now) for now in (day, night)] == [False, True]
    assert slot.may_start(spec, now=day, at_once=True)


def test_training_waits_until_the_resources_it_names_are_free(shipped):
    everything = psutil.virtual_memory().total / 1e9 + 1
    assert slot.may_start(shipped("{free: {cpu: 0, memory: 1M}}"))
    assert not slot.may_start(shipped(f"{{free: {{cpu: 0, memory: {everything:.0f}G}}}}"))
    assert not slot.may_start(shipped(f"{{free: {{cpu: {psutil.cpu_count() + 1}, memory: 1M}}}}"))


def test_what_is_lacking_is_said():
    assert taken(0, "1M") == ""
    assert "processors are idle, 10000 are wanted" in taken(10000, "1M")
    assert "1000000G are wanted" in taken(0, "1000000G")
    assert [size(text) for text in ("500M", "4G", "1.5Gi")] == [5e8, 4e9, 1.5 * 2**30]


def test_the_dag_waits_before_it_reads_the_mode_and_again_before_it_submits(shipped):
    shipped(f'{{on_data: flights, off_peak: "{NIGHT}"}}')
    dag = DagBag(dag_folder=ROOT / "dags" / "train.py").dags["train__flights_delay"]
    order = {task.task_id: task.upstream_task_ids for task in dag.tasks}
    assert "wait_for_slot" in order["gates"] and order["wait_for_slot"] == {"window"}
    assert "wait_for_slot_again" in order["train"] and order["wait_for_slot_again"] == {"explore"}
    first = dag.get_task("wait_for_slot")
    assert (first.mode, first.soft_fail) == ("reschedule", True)
    assert first.timeout > 24 * 3600
    assert "at_once" in dag.params


def test_a_problem_without_hours_waits_for_nothing(shipped):
    shipped("{on_data: flights}")
    dag = DagBag(dag_folder=ROOT / "dags" / "train.py").dags["train__flights_delay"]
    assert not [task for task in dag.task_ids if "slot" in task]
    assert "at_once" not in dag.params
