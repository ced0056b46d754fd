"""When drift is looked for, and when it asks for a training."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from types import SimpleNamespace

import pytest
from adin.airflow import assets
from adin.alerts.sources import DriftSource
from adin.drift import service
from adin.drift.alarms import Alarm
from adin.problem import problem
from adin.settings import ROOT, settings
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import AssetAny
from airflow.serialization.serialized_objects import DagSerialization

pytestmark = pytest.mark.flow(15)


@pytest.fixture
def dags(monkeypatch, tmp_path):
    """Return a function that reads a DAG file with ``run`` of flights_delay changed."""

    def read(file: str, run: str) -> DagBag:
        shipped = (ROOT / "include" / "problems" / "flights_delay" / "problem.yaml").read_text()
        changed = re.sub(r"^run: .*$", f"run: {run}", shipped, flags=re.MULTILINE)
        (tmp_path / "flights_delay").mkdir(exist_ok=True)
        (tmp_path / "flights_delay" / "problem.yaml").write_text(changed)
        monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
        settings.cache_clear()
        bag = DagBag(dag_folder=ROOT / "dags" / f"{file}.py")
        assert bag.import_errors == {}
        return bag

    yield read
    monkeypatch.undo()
    settings.cache_clear()


def uris(condition) -> set[str]:
    return {asset.uri for asset in condition.objects}


def test_drift_is_looked_for_after_each_dataset_version_and_each_training(dags):
    condition = dags("drift", "{}").dags["drift__flights_delay"].timetable.asset_condition
    assert isinstance(condition, AssetAny)
    assert uris(condition) == {assets.dataset("flights_delay").uri, assets.model("flights_delay").uri}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("{on_data: flights, on_drift: true}", {"adin://features/flights", "adin://drift/flights_delay"}),
        ("{on_data: flights}", {"adin://features/flights"}),
        ("{on_drift: true}", {"adin://drift/flights_delay"}),
    ],
)
def test_a_training_starts_on_new_data_or_on_drift_never_waiting_for_both(dags, run, expected):
    condition = dags("train", run).dags["train__flights_delay"].timetable.asset_condition
    assert uris(condition) == expected
    assert len(expected) == 1 or isinstance(condition, AssetAny)


def spec(monkeypatch, on_drift: bool):
    found = problem("flights_delay")
    return found.model_copy(update={"run": found.run.model_copy(update={"on_drift": on_drift})})


def facts(active, raised):
    return {"active": active, "raised": raised, "window": "2013-01-01T00:00:00Z/2013-06-01T00:00:00Z"}


LEARNABLE, BROKEN = ["label", "late", "label_psi"], ["quality", "rows", "missing_rows"]


@pytest.mark.parametrize(
    ("on_drift", "active", "raised", "scheduled", "asks"),
    [
        (True, [LEARNABLE], [LEARNABLE], False, True),
        (True, [LEARNABLE], [], False, False),
        (True, [LEARNABLE], [], True, True),
        (True, [BROKEN], [BROKEN], True, False),
        (True, [], [], True, False),
        (False, [LEARNABLE], [LEARNABLE], True, False),
    ],
)
def test_only_drift_that_training_can_mend_asks_for_it(monkeypatch, on_drift, active, raised, scheduled, asks):
    found = service.no_training(spec(monkeypatch, on_drift), facts(active, raised), scheduled=scheduled)
    assert (found == "") is asks


def test_the_training_that_drift_asks_for_takes_the_data_up_to_the_checks_own_day():
    told = facts([], [])
    assert service.asked_window(told, None) == told["window"]
    later = datetime(2013, 7, 1, tzinfo=UTC)
    assert service.asked_window(told, later) == "2013-01-01T00:00:00Z/2013-07-01T00:00:00Z"
    assert service.asked_window(told, datetime(2013, 2, 1, tzinfo=UTC)) == told["window"]


def test_the_task_that_looks_for_drift_has_a_button_to_the_report_that_the_alert_names(dags):
    dag = dags("drift", "{}").dags["drift__flights_delay"]
    shown = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("check")
    assert shown.extra_links == ["Report"]
    report = "/adin/drift/flights_delay/report?check=0123456789abcdef"
    alarm = Alarm("flights_delay", "label", "late", "label_psi", "active", date(2013, 9, 1), 0.3, 0.05, report)
    source = DriftSource(lambda _: [alarm], lambda: ["flights_delay"])
    (alert,) = source.look(None, datetime.now(UTC)).up
    check = dag.get_task("check")
    (link,) = check.operator_extra_links
    told = SimpleNamespace(xcom_pull=lambda task_ids: {"report": report} if task_ids == "check" else None)
    address = link.get_link(check, ti_key=told)
    assert address == alert.wire(datetime.now(UTC))["annotations"]["report"]
    assert address.endswith(report)
    assert link.get_link(check, ti_key=SimpleNamespace(xcom_pull=lambda task_ids: None)) == ""
