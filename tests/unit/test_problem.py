"""Problem files: what is accepted, and how a mistake is told."""

from datetime import datetime, timedelta

import pytest
import yaml
from adin.errors import ConfigError, NotFoundError
from adin.problem import Split, names, problem
from adin.run_key import content_hash, run_key
from adin.settings import settings

GOOD = {
    "name": "made",
    "task": "binary",
    "description": "d",
    "owner": "o",
    "domain": "flights",
    "features": "f",
    "label": {"table": "flights.outcomes", "column": "late_15", "known_after": "1d"},
    "event_time": "at",
    "predict_before": "60min",
    "promotion": {"primary": "log_loss"},
    "example": {"a": 1},
}


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()

    def _write(folder="made", **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "problem.yaml").write_text(yaml.safe_dump(GOOD | changes))

    yield _write
    settings.cache_clear()


def test_each_shipped_problem_is_read_without_a_mistake():
    assert [problem(name).name for name in names()] == names() != []


def test_durations_are_read_with_their_units(write):
    write()
    assert problem("made").predict_before == timedelta(minutes=60)
    assert problem("made").label.known_after == timedelta(days=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "cooking"}, "task"),
        ({"task": "regression", "promotion": {"primary": "mae"}, "serving": {"watch": {"estimate": True}}}, "estimate"),
        ({"predict_before": "soon"}, "predict_before"),
        ({"lable": {}}, "lable"),
        ({"label": {"table": "no_domain", "column": "x"}}, "label.table"),
        ({"promotion": {}}, "promotion.primary"),
        ({"name": "other"}, "the folder is 'made'"),
    ],
)
def test_a_mistake_is_refused_with_its_place(write, changes, named):
    write(**changes)
    with pytest.raises(ConfigError, match=named):
        problem("made")


def test_all_mistakes_are_told_at_once(write):
    write(task="cooking", owner=3)
    with pytest.raises(ConfigError, match=r"task.*owner"):
        problem("made")


def test_an_unknown_problem_is_answered_with_the_known_ones(write):
    write()
    with pytest.raises(NotFoundError, match="made"):
        problem("absent")


def test_a_run_key_is_stable_short_and_differs_in_every_part():
    parts = ("train__flights_delay", "scheduled__2013-01-01T00:00:00+00:00", "dataset", -1)
    keys = {run_key(*parts), run_key("x", *parts[1:]), run_key(*parts[:1], "x", *parts[2:]), run_key(*parts[:3], 0)}
    assert run_key(*parts) == run_key(*parts)
    assert len(keys) == 4
    assert all(len(key) <= 63 for key in keys)


def test_equal_facts_have_equal_hashes_whatever_their_order():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1}) != content_hash({"a": 1, "b": [3]})


@pytest.mark.parametrize(
    ("end", "validate", "test"),
    [
        ("2014-01-01", "2013-09-01", "2013-11-01"),
        ("2013-12-31", "2013-08-31", "2013-10-31"),
        ("2013-08-31", "2013-04-30", "2013-06-30"),
    ],
)
def test_splits_are_counted_back_in_months_also_where_a_month_is_short(end, validate, test):
    bounds = Split().bounds(datetime.fromisoformat(f"{end}T00:00+00:00"))
    assert [f"{bound:%Y-%m-%d}" for bound in bounds] == [validate, test]


def test_splits_may_be_counted_in_days_and_weeks():
    bounds = Split(validation="2w", test="15d").bounds(datetime.fromisoformat("2016-12-20T00:00+00:00"))
    assert [f"{bound:%Y-%m-%d}" for bound in bounds] == ["2016-11-21", "2016-12-05"]
