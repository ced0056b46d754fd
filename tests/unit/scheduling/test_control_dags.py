"""What the forms of rollback and of training control allow, seen without a database."""

from __future__ import annotations

import shutil

import pytest
from adin.errors import ConfigError
from adin.settings import ROOT, settings
from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.flow(21)


@pytest.fixture(scope="module")
def rollback():
    return DagBag(dag_folder=ROOT / "dags" / "rollback.py").dags["rollback__flights_delay"]


def test_a_rollback_is_started_by_hand_only(rollback):
    assert {kind.value for kind in rollback.allowed_run_types} == {"manual"}
    assert rollback.task_dict["rollback"].upstream_task_ids == {"plan"}


def test_a_rollback_waits_for_approval_where_the_problem_says_so(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "include" / "problems" / "flights_delay", tmp_path / "flights_delay")
    with (tmp_path / "flights_delay" / "problem.yaml").open("a") as file:
        file.write("rollback: {approval: true, approvers: [ann]}\n")
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()
    try:
        found = DagBag(dag_folder=ROOT / "dags" / "rollback.py").dags["rollback__flights_delay"]
    finally:
        settings.cache_clear()
    assert found.task_dict["rollback"].upstream_task_ids == {"plan", "approve"}
    assert [user["id"] for user in found.task_dict["approve"].assigned_users] == ["ann"]


def test_training_that_was_stopped_catches_up_nothing():
    """Resuming changes the mode alone: of what fell due meanwhile nothing is kept, and one run goes at a time."""
    found = DagBag(dag_folder=ROOT / "dags" / "train.py").dags["train__flights_delay"]
    assert (found.catchup, found.max_active_runs) == (False, 1)


def test_the_form_of_a_rollback_names_one_target(rollback):
    target_of = rollback_module(rollback).target_of
    empty = {"version": None, "time": None}
    assert target_of({"to": "previous", **empty}) == "previous"
    assert target_of({"to": "version", **empty, "version": 3}) == "3"
    assert target_of({"to": "time", **empty, "time": "2013-11-04T02:00:00Z"}) == "2013-11-04T02:00:00Z"
    with pytest.raises(ConfigError, match="version is empty"):
        target_of({"to": "version", **empty})


def rollback_module(dag):
    """The DAG file, as Airflow has imported it."""
    import sys

    return sys.modules[dag.task_dict["plan"].python_callable.__module__]
