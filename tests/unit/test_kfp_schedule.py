"""When a recurring run is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from adin.stack.kfp.schedule import due

pytestmark = [pytest.mark.ml, pytest.mark.flow(22)]

START = datetime(2013, 1, 1, tzinfo=UTC)
EVERY_MINUTE = {"periodic_schedule": {"interval_second": "60"}}
AT_THREE = {"cron_schedule": {"cron": "0 0 3 * * *"}}


def recurring(trigger: dict[str, dict[str, str]], *, catch_up: bool = False, last: datetime | None = None) -> dict:
    return {
        "trigger": trigger,
        "no_catchup": not catch_up,
        "created_at": START.isoformat(),
        "_last": last.isoformat() if last else "",
    }


def test_an_interval_begins_when_the_recurring_run_is_made() -> None:
    assert due(recurring(EVERY_MINUTE), START + timedelta(seconds=59)) is None
    assert due(recurring(EVERY_MINUTE), START + timedelta(seconds=60)) == START + timedelta(minutes=1)


def test_after_a_pause_only_the_latest_time_is_run() -> None:
    now = START + timedelta(minutes=10, seconds=5)
    latest = due(recurring(EVERY_MINUTE, last=START), now)
    assert latest == START + timedelta(minutes=10)
    assert due(recurring(EVERY_MINUTE, last=latest), now) is None


def test_after_a_pause_every_missed_time_is_run_if_asked_for() -> None:
    now, last, found = START + timedelta(minutes=3), START, []
    while moment := due(recurring(EVERY_MINUTE, catch_up=True, last=last), now):
        found.append(moment)
        last = moment
    assert found == [START + timedelta(minutes=minute) for minute in (1, 2, 3)]


def test_a_cron_is_due_on_the_stroke_and_once() -> None:
    three = START + timedelta(hours=3)
    assert due(recurring(AT_THREE), three - timedelta(seconds=1)) is None
    assert due(recurring(AT_THREE), three) == three
    assert due(recurring(AT_THREE, last=three), three + timedelta(hours=1)) is None
    assert due(recurring(AT_THREE, last=three), START + timedelta(days=5)) == START + timedelta(days=4, hours=3)
    assert due(recurring(AT_THREE, catch_up=True, last=three), START + timedelta(days=5)) == three + timedelta(days=1)


def test_nothing_is_due_before_the_start_or_after_the_end() -> None:
    bounds = {"start_time": "2013-02-01T00:00:00.000000Z", "end_time": "2013-02-01T00:02:30.000000Z"}
    doc = recurring({"periodic_schedule": {"interval_second": "60", **bounds}})
    begin = datetime(2013, 2, 1, tzinfo=UTC)
    assert due(doc, begin) is None
    assert due(doc, begin + timedelta(days=1)) == begin + timedelta(minutes=2)
    assert due(doc | {"_last": (begin + timedelta(minutes=2)).isoformat()}, begin + timedelta(days=1)) is None
