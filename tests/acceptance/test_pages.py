"""Pages and API in the Airflow UI: nobody gets in unasked, and what they show is what the stores say."""

from __future__ import annotations

import time

import httpx
import pytest
from adin.airflow.web.app import create
from adin.models import registry
from adin.stack import control
from adin.stack.airflow_api import AirflowApi
from starlette.routing import Route

PROBLEM = "flights_delay"


def web(user: str | None) -> httpx.Client:
    """Return a client of Adin's part of Airflow's server, signed in or not."""
    url, name, password = control.airflow_login(user or "viewer")
    headers = {"Authorization": AirflowApi(url, name, password).authorization} if user else {}
    return httpx.Client(base_url=f"{url}/adin", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def viewer(line):
    with web("viewer") as client:
        yield client


def routes(*methods: str):
    places = {"model": PROBLEM, "version": "1", "commit": PROBLEM, "step": "freeze"}
    return [
        (method, route.path.format(**places))
        for route in create().routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
        if method in methods
    ]


@pytest.mark.flow(16, 17)
@pytest.mark.parametrize(("method", "path"), routes("GET", "POST", "PUT", "PATCH", "DELETE"))
def test_no_route_answers_a_stranger(line, method, path):
    with web(None) as stranger:
        assert stranger.request(method, path).status_code == 401


PLANS = [(method, path) for method, path in routes("GET") if path.endswith("/rollback")]
CHANGING = routes("POST", "PUT", "PATCH", "DELETE")


@pytest.mark.flow(18, 19)
@pytest.mark.parametrize(("method", "path"), CHANGING + PLANS)
def test_who_may_only_look_changes_nothing(viewer, method, path):
    entries = len(registry().log(PROBLEM))
    body = {"data": {"reason": "x", "to": "1"}} if "/api/" not in path else {"json": {"reason": "x"}}
    answer = viewer.request(method, path, **body)
    assert answer.status_code == 403
    assert "may not change" in answer.text
    assert len(registry().log(PROBLEM)) == entries


@pytest.mark.flow(16, 17)
@pytest.mark.parametrize(("method", "path"), [each for each in routes("GET") if each not in PLANS])
def test_every_page_and_answer_is_there_for_who_is_signed_in(viewer, method, path):
    answer = viewer.get(path, params={"v": [1, 1], "to": "1", "target": "1"})
    assert answer.status_code == 200, answer.text
    assert "script" not in answer.headers["content-security-policy"]


@pytest.mark.flow(16, 17)
def test_the_pages_lead_from_the_champion_to_its_evidence_and_its_source_partitions(viewer):
    champion = registry().champion(PROBLEM)
    assert f'/adin/models/{PROBLEM}"' in viewer.get("/models").text
    model = viewer.get(f"/models/{PROBLEM}").text
    assert f"/adin/models/{PROBLEM}/versions/{champion.number}" in model
    version = viewer.get(f"/models/{PROBLEM}/versions/{champion.number}").text
    assert "baseline" in version
    assert f"/adin/models/{PROBLEM}/versions/{champion.number}/evidence" in version
    plots = viewer.get(f"/models/{PROBLEM}/versions/{champion.number}/evidence").text
    assert "<svg" in plots
    assert "Predicted and seen" in plots
    assert f"/adin/datasets/{PROBLEM}/{champion.manifest.dataset}" in version
    dataset = viewer.get(f"/datasets/{PROBLEM}/{champion.manifest.dataset}").text
    for table, days in champion.manifest.sources.items():
        assert table in dataset
        assert all(fingerprint in dataset for fingerprint in days.values())


@pytest.mark.flow(16, 17)
def test_what_does_not_exist_is_said_so(viewer):
    for path in ("/models/no_such_model", "/api/v1/models/no_such_model", f"/models/{PROBLEM}/versions/999"):
        answer = viewer.get(path)
        assert answer.status_code == 404
        assert "no " in answer.text.lower()


@pytest.mark.flow(17, 18, 19, 21)
def test_training_is_stopped_the_model_pinned_rolled_back_and_all_is_undone_from_the_page(line):
    champion, page = registry().champion(PROBLEM).number, f"/models/{PROBLEM}"
    with web("admin") as admin:

        def press(button, **values):
            answer = admin.post(f"{page}/{button}", data={"reason": "seen in the test", **values})
            assert answer.status_code == 303, answer.text
            return admin.get(page).text

        def training():
            return admin.get(f"/api/v1/ct/{PROBLEM}").json()

        assert "stopped, set by admin" in press("stop")
        assert training()["mode"] == "stopped"
        press("resume")
        assert training()["mode"] == "auto_deploy"
        press("freeze")
        assert training()["frozen"]
        press("unfreeze")
        plan = admin.get(f"{page}/rollback", params={"to": champion}).text
        assert f"Roll back to version {champion}" in plan
        press("rollback", to=champion)
        end = time.monotonic() + 60
        while (now := training())["rollback"] or now["mode"] != "train_only":
            assert time.monotonic() < end, now
            time.sleep(0.5)
        assert (now["frozen"], now["answers"]) == (True, champion)
        press("unfreeze")
        press("resume")
        now = training()
        assert (now["mode"], now["frozen"], now["champion"], now["answers"]) == (
            "auto_deploy",
            False,
            champion,
            champion,
        )
    told = [(entry.event, entry.actor) for entry in registry().log(PROBLEM)[-9:]]
    assert ("rollback", "admin") in told


@pytest.mark.flow(19)
def test_a_rollback_that_cannot_be_done_says_why_and_changes_nothing(line):
    entries = len(registry().log(PROBLEM))
    with web("admin") as admin:
        for target, status in (("999", 404), ("yesterday", 422), ("2999-01-01", 409)):
            answer = admin.post(f"/api/v1/models/{PROBLEM}/rollback", json={"target": target, "reason": "x"})
            assert answer.status_code == status, answer.text
    assert len(registry().log(PROBLEM)) == entries


@pytest.mark.flow(14, 16, 21)
def test_every_change_of_champion_is_one_event_of_the_models_asset_and_starts_who_waits_for_it(line):
    airflow = AirflowApi(*control.airflow_login())
    entries = registry().log(PROBLEM)
    champions = [entry.aliases.get("champion") for entry in entries]
    changes = [
        entry.id for entry, now, before in zip(entries, champions, [None, *champions], strict=False) if now != before
    ]
    assert changes

    def events():
        query = {"name_pattern": f"model_{PROBLEM}", "order_by": "timestamp", "limit": 100}
        return airflow._call("GET", "/api/v2/assets/events", params=query)["asset_events"]

    end = time.monotonic() + 60
    while len(events()) < len(changes) or not events()[0]["created_dagruns"]:
        assert time.monotonic() < end, events()
        time.sleep(1)
    assert [event["extra"]["id"] for event in events()] == changes
    assert events()[0]["created_dagruns"][0]["dag_id"] == f"drift__{PROBLEM}"
