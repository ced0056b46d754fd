"""Drift of problem 1 as the scheduler looks for it after the dataset version, and as people see it."""

from __future__ import annotations

import json
import subprocess
import time

import httpx
import pytest
from adin import drift
from adin.drift import engine
from adin.models import registry
from adin.settings import ROOT
from test_pages import web

PROBLEM = "flights_delay"
pytestmark = pytest.mark.flow(15)


@pytest.fixture(scope="module")
def checked(line, airflow) -> dict:
    """The result of the newest check that the scheduler made after the training."""
    run = airflow.newest(f"drift__{PROBLEM}")
    airflow.wait(f"drift__{PROBLEM}", run, timeout=900, progress=print)
    end = time.monotonic() + 600
    while True:  # the check after the training follows the one after the dataset
        found = drift.result(registry(), PROBLEM)
        if found and found["reference"]["version"] == registry().champion(PROBLEM).number:
            return found
        assert time.monotonic() < end, found and found["reference"]
        time.sleep(5)


def adin(*arguments: str) -> dict:
    command = [str(ROOT / ".venv" / "bin" / "adin"), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_dataset_version_is_compared_with_what_the_champion_learned_from(checked):
    champion = registry().champion(PROBLEM)
    assert checked["reference"]["commit"] == champion.manifest.dataset
    assert checked["reference"]["last"] == "2013-08-31"
    watched = {each["feature"] for each in checked["features"]}
    assert {*champion.manifest.features, "late_15"} >= watched
    assert len(watched) > 15


def test_a_check_by_hand_of_the_same_data_is_the_same_check(checked):
    again = adin("drift", "check", PROBLEM)
    assert again["check"] == checked["id"]
    assert again["findings"] == checked["findings"]
    assert not again["raised"] and not again["resolved"]


def test_page_api_and_report_tell_the_same(checked):
    with web("viewer") as viewer:
        told = viewer.get(f"/api/v1/drift/{PROBLEM}").json()
        assert told["result"] == checked
        assert {alarm["subject"] for alarm in told["alarms"]} == {subject for _, subject, _ in checked["alarms"]}
        page = viewer.get(f"/drift/{PROBLEM}")
        assert page.status_code == httpx.codes.OK
        assert checked["id"] in page.text
        report = viewer.get(f"/drift/{PROBLEM}/report", params={"check": checked["id"]}).text
        assert "What changed" in report and "<script" not in report


def test_the_run_in_airflow_has_a_button_to_the_report_of_its_check(checked, airflow):
    dag = f"drift__{PROBLEM}"
    run = airflow.newest(dag)
    airflow.wait(dag, run, timeout=900, progress=print)
    signed = {"Authorization": airflow.authorization}
    buttons = httpx.get(
        f"{airflow.url}/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/check/links", headers=signed, timeout=60
    ).json()["extra_links"]
    found = airflow.xcom(dag, run, "check")
    assert buttons["Report"] == f"{airflow.url}{found['report']}"
    report = httpx.get(buttons["Report"], headers=signed, timeout=60)
    assert report.status_code == httpx.codes.OK
    assert report.content == engine.kept_report(registry().bucket, PROBLEM, found["check"])


def test_september_compared_with_august_is_a_report_of_its_own(checked, tmp_path):
    out = tmp_path / "september.html"
    found = adin("drift", "report", PROBLEM, "--from", "2013-09-01", "--to", "2013-10-01", "--out", str(out))
    label = next(each for each in found["features"] if each["feature"] == "late_15")
    assert label["psi"] > 0.03
    assert "before and after 2013-09-01" in out.read_text()
