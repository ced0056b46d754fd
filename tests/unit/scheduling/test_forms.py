"""What a person may type into a trigger form or a connection form, and which window a run is then for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from adin.airflow import hooks
from adin.airflow.domain import Domain, domain
from adin.airflow.params import check_conf
from adin.connections import NAMES, environment
from adin.errors import ConfigError, NotFoundError
from adin.settings import settings
from adin.window import Window
from airflow.models.connection import Connection
from airflow.providers_manager import ProvidersManager
from airflow.sdk.exceptions import AirflowSkipException


def _trigger(conf):
    return {"dag": SimpleNamespace(params={"rows": 1}), "dag_run": SimpleNamespace(conf=conf)}


def test_an_unknown_key_in_a_runs_configuration_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"rowz.*rows"):
        check_conf(_trigger({"rowz": 1}))


@pytest.mark.parametrize("conf", [None, {}, {"rows": 2}])
def test_known_keys_pass(conf):
    check_conf(_trigger(conf))


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _run(kind: str, start: str = "", end: str = "", **params: str):
    given = {"window_start": None, "window_end": None, **params}
    interval = {"data_interval_start": _day(start), "data_interval_end": _day(end)} if start else {}
    return {"params": given, "dag_run": SimpleNamespace(run_type=kind), **interval}


ENDED = Domain("shop", ("sales",), ("sales",), _day("2013-01-01"), _day("2014-01-01"))
GOES_ON = Domain("shop", ("sales",), ("sales",), _day("2013-01-01"), None)
LATE = ("2026-01-01", "2026-01-02")


@pytest.mark.parametrize("kind", ["scheduled", "backfill", "manual"])
def test_a_daily_run_is_for_its_day(kind):
    for source in (ENDED, GOES_ON):
        assert str(source.window(_run(kind, "2013-03-01", "2013-03-02"))).startswith("2013-03-01")


@pytest.mark.parametrize("kind", ["scheduled", "backfill"])
def test_runs_after_a_source_has_ended_are_skipped(kind):
    with pytest.raises(AirflowSkipException, match="2014-01-01"):
        ENDED.window(_run(kind, *LATE))
    assert GOES_ON.window(_run(kind, *LATE)).start == _day("2026-01-01")


def test_a_run_by_hand_with_an_empty_form_is_for_the_last_day_of_a_source_that_has_ended():
    assert ENDED.window(_run("manual", *LATE)).start == _day("2013-12-31")


def test_a_window_after_the_end_of_a_source_is_refused():
    asked = _run("manual", *LATE, window_start="2014-02-01", window_end="2014-02-02")
    with pytest.raises(ConfigError, match="2014-01-01"):
        ENDED.window(asked)


def test_training_learns_from_the_first_day_to_the_end_of_its_run_or_of_the_source():
    assert str(GOES_ON.history(_run("scheduled", "2013-03-01", "2013-03-08"))).startswith(
        "2013-01-01T00:00:00Z/2013-03-08"
    )
    for empty in (_run("manual", *LATE), _run("manual", LATE[0], LATE[0])):
        assert ENDED.history(empty) == Window(ENDED.start, ENDED.end)
    event = SimpleNamespace(extra={"window": "2013-03-01T00:00:00Z/2013-03-02T00:00:00Z"})
    told = _run("asset_triggered") | {"triggering_asset_events": {"features": [event]}}
    assert ENDED.history(told).end == GOES_ON.history(told).end == _day("2013-03-02")


def test_the_form_of_training_may_name_the_end_alone_or_both_sides():
    assert ENDED.history(_run("manual", window_end="2013-06-01")).start == ENDED.start
    both = _run("manual", window_start="2013-02-01", window_end="2013-06-01")
    assert ENDED.history(both).start == _day("2013-02-01")


def test_half_a_window_is_refused():
    with pytest.raises(ConfigError, match="window_end"):
        ENDED.window(_run("manual", *LATE, window_start="2013-02-01"))


@pytest.mark.parametrize(("text", "said"), [("arrives: {}", "start"), ("- 1", "raw.yaml"), ("a: [", "raw.yaml")])
def test_a_domain_file_that_is_wrong_is_named(monkeypatch, tmp_path, text, said):
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path))
    settings.cache_clear()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "raw.yaml").write_text(text)
    try:
        with pytest.raises(ConfigError, match=said):
            domain("shop")
        with pytest.raises(NotFoundError, match="shop"):
            domain("nowhere")
    finally:
        settings.cache_clear()


def test_each_service_has_a_connection_type_with_a_form_and_a_test_button():
    known = ProvidersManager().hooks
    for name in NAMES:
        hook = known[f"adin_{name}"]
        assert hook.connection_testable, name
        assert hook.hook_name.startswith("Adin "), name
        assert getattr(hooks, f"{name.capitalize()}Hook").default_conn_name == f"{name}_default"


def test_a_secret_of_a_connection_is_typed_unseen():
    widgets = ProvidersManager().connection_form_widgets
    registry = widgets["extra__adin_feast__registry"].field
    assert "password" in json.dumps(registry, default=str)


@pytest.mark.parametrize("name", NAMES)
def test_testing_a_connection_to_a_dead_server_says_so_within_its_time(name, monkeypatch):
    monkeypatch.setattr(hooks, "_TEST_TIMEOUT", 3)
    monkeypatch.setitem(vars(settings()), "registry_patience", 1)  # settings are frozen
    extra = {
        "namenode": "hdfs://127.0.0.1:9",
        "metastore": "thrift://127.0.0.1:9",
        "warehouse": "hdfs://127.0.0.1:9/warehouse",
        "registry": "postgresql+psycopg://adin:hidden-word@127.0.0.1:9/feast",
    }
    found = {"conn_type": f"adin_{name}", "host": "127.0.0.1", "port": 9, "password": "hidden-word", "extra": extra}
    for each in (name, "s3"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{each.upper()}_DEFAULT", json.dumps(found | {"conn_type": f"adin_{each}"}))
    good, told = Connection(conn_id=f"{name}_default", conn_type=f"adin_{name}").test_connection()
    assert not good
    assert told
    assert "hidden-word" not in told
    assert environment() == {}, "a connection on trial is used by nobody else"
