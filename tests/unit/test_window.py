"""Which window a run is for."""

from datetime import UTC, date, datetime
from types import SimpleNamespace

import pytest
from adin.errors import ConfigError
from adin.window import Window, run_window

DAY = Window.parse("2013-01-01", "2013-01-02")


def test_a_window_survives_being_written_and_read():
    assert Window.from_text(str(DAY)) == DAY


def test_times_of_other_zones_are_turned_into_utc():
    assert Window.parse("2013-01-01T03:30:00+03:30", "2013-01-02") == DAY


def test_days_leave_out_the_day_at_whose_midnight_the_window_ends():
    assert Window.parse("2013-01-01", "2013-01-03").days == [date(2013, 1, 1), date(2013, 1, 2)]


@pytest.mark.parametrize(("start", "end"), [("2013-01-02", "2013-01-01"), ("2013-01-01", "2013-01-01"), ("x", "y")])
def test_an_empty_or_unreadable_window_is_refused(start, end):
    with pytest.raises(ConfigError):
        Window.parse(start, end)


def _interval(start, end):
    return {
        "data_interval_start": datetime(2013, 1, start, tzinfo=UTC),
        "data_interval_end": datetime(2013, 1, end, tzinfo=UTC),
    }


def _events(*windows):
    return {"triggering_asset_events": {"asset": [SimpleNamespace(extra={"window": str(w)}) for w in windows]}}


@pytest.mark.parametrize(
    "context",
    [
        {"partition_date": datetime(2013, 1, 1, tzinfo=UTC), **_interval(5, 6)},
        {"params": {"window_start": "2013-01-01", "window_end": "2013-01-02"}, **_interval(5, 6)},
        {"params": {"window_start": None, "window_end": None}, **_interval(1, 2)},
        _events(DAY),
    ],
    ids=["partition", "form", "interval", "asset"],
)
def test_every_kind_of_run_finds_its_window(context):
    assert run_window(context) == DAY


def test_windows_of_several_asset_events_are_joined():
    assert run_window(_events(Window.parse("2013-01-02", "2013-01-03"), DAY)) == Window.parse(
        "2013-01-01", "2013-01-03"
    )


def test_a_run_without_any_window_is_refused_and_told_what_to_give():
    with pytest.raises(ConfigError, match="window_start and window_end"):
        run_window({"params": {}})


def test_a_zero_length_interval_is_no_window():
    with pytest.raises(ConfigError):
        run_window(_interval(1, 1))
