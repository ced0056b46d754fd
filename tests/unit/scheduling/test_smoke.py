"""What one runs first after an upgrade."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from adin.connections import NAMES
from adin.errors import ConfigError
from adin.settings import ROOT
from airflow.dag_processing.dagbag import DagBag


@pytest.fixture(scope="module")
def smoke():
    return DagBag(dag_folder=ROOT / "dags" / "smoke_stack.py").dags["smoke_stack"]


def test_every_connection_is_touched_beside_the_others_and_then_reported(smoke):
    assert set(smoke.task_ids) == {"check", "report", *NAMES}
    for name in NAMES:
        task = smoke.task_dict[name]
        assert (task.upstream_task_ids, task.downstream_task_ids) == ({"check"}, {"report"})
    assert smoke.task_dict["report"].trigger_rule == "all_done"


@pytest.mark.parametrize("silent", ["", "kfp"])
def test_a_service_without_an_answer_fails_the_report_by_name(smoke, silent, monkeypatch):
    report = smoke.task_dict["report"].python_callable
    pulled = SimpleNamespace(xcom_pull=lambda task_ids: None if task_ids == silent else "it answers")
    monkeypatch.setattr(sys.modules[report.__module__], "get_current_context", lambda: {"ti": pulled})
    if silent in NAMES:
        with pytest.raises(ConfigError, match="No good answer: kfp"):
            report()
    else:
        assert set(report()) == set(NAMES)
