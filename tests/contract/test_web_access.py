"""Adin's part of Airflow's server for callers with a token of AMVersion, and what its pages show of odd models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adin import connections
from adin.airflow.web.app import create
from adin.connections import Connection
from adin.models import Registry, registry
from adin.models.access import ROLES, Access
from adin.promotion import report
from adin.settings import settings
from airflow_connections import offer
from fastapi.testclient import TestClient
from model_facts import facts, files
from server_fixtures import of_edition
from servers import Servers, execute
from starlette.routing import Route

pytestmark = [pytest.mark.flow(16, 18), pytest.mark.filterwarnings("ignore")]

WHO = {"actor": "root", "reason": "test"}
#: Which roles may go through which changing route; written down a second time: a change of it must be meant.
CHANGES = {
    "/api/v1/models/{model}/rollback": {"approver", "admin"},
    "/api/v1/models/{model}/freeze": {"approver", "admin"},
    "/api/v1/models/{model}/unfreeze": {"approver", "admin"},
    "/api/v1/ct/{model}/stop": {"approver", "admin"},
    "/api/v1/ct/{model}/resume": {"approver", "admin"},
    "/models/{model}/rollback": {"approver", "admin"},
    "/models/{model}/{step}": {"approver", "admin"},
}


@pytest.fixture
def models(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that Airflow's connections lead to; Kubeflow and the model server are away."""
    own = of_edition(servers, "database")
    away = Connection("kfp", "127.0.0.1", 9, password="word")
    offer(monkeypatch, own, servers.s3, away, replace(away, name="kserve"))
    monkeypatch.setattr(connections, "_CHOSEN", {})
    return registry(own, s3=servers.s3)


@pytest.fixture
def web() -> Iterator[TestClient]:
    with TestClient(create(), follow_redirects=False) as client:
        yield client


def ask(web: TestClient, token: str, method: str, path: str, model: str, **more: Any) -> Any:
    body = {"json": {"reason": "x"}} if "/api/" in path else {"data": {"reason": "x", "to": "1"}}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    where = path.format(model=model, version=1, commit="c", step="freeze")
    return web.request(method, where, headers=headers, **({} if method == "GET" else body), **more)


def routes(method: str) -> list[str]:
    return [route.path for route in create().routes if isinstance(route, Route) and method in (route.methods or ())]


def tokens(models: Registry, model: str) -> dict[str, str]:
    access, found = Access(models.store), {}
    for role in ROLES:
        access.grant(f"{model}-{role}", role, model, **WHO)
        found[role] = access.issue(f"{model}-{role}", **WHO)
    return found | {"nobody": access.issue(f"{model}-nobody", **WHO)}


def register(models: Registry, model: str, folder: Path, **more: Any) -> None:
    models.register(model, facts(**more), files(folder), actor="t", run_key=f"{folder}{len(models.digests(model))}")


def test_every_changing_route_is_open_to_the_roles_meant_for_it_and_refused_and_recorded_for_all_others(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    register(models, model, tmp_path)
    assert set(CHANGES) == {path for method in ("POST", "PUT", "PATCH", "DELETE") for path in routes(method)}
    known = tokens(models, model)
    entries = len(models.log(model))
    refused = []
    for path, meant in CHANGES.items():
        for role in sorted(set(known) - meant):
            answer = ask(web, known[role], "POST", path, model)
            assert (answer.status_code, "may not change" in answer.text) == (403, True), (path, role, answer.text)
            refused.append(f"{model}-{role}")
        for token in ("adin_0123456789ab_" + "x" * 43, "adin_", known["admin"][:-1] + "!"):
            assert ask(web, token, "POST", path, model).status_code == 401, path
    assert len(models.log(model)) == entries
    assert [d.subject for d in Access(models.store).denials() if d.scope == model and d.subject] == refused
    for role in ("approver", "admin"):
        for path in ("/api/v1/models/{model}/freeze", "/api/v1/models/{model}/unfreeze", "/models/{model}/{step}"):
            assert ask(web, known[role], "POST", path, model).status_code in (200, 303), (path, role)
        ask(web, known[role], "POST", "/api/v1/models/{model}/unfreeze", model)
    told = [(entry.event, entry.actor) for entry in models.log(model)[entries:]]
    assert told == [
        (event, f"{model}-{role}") for role in ("approver", "admin") for event in ["freeze", "unfreeze"] * 2
    ]


def test_a_token_reads_the_models_its_roles_reach_and_no_others(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    other = f"{model}_b"
    for name in (model, other):
        (tmp_path / name).mkdir()
        register(models, name, tmp_path / name)
    viewer = tokens(models, model)["viewer"]
    before = len(Access(models.store).denials())
    assert [each["model"] for each in ask(web, viewer, "GET", "/api/v1/models", "").json()] == [model]
    assert f"/models/{other}" not in ask(web, viewer, "GET", "/models", "").text
    assert len(Access(models.store).denials()) == before, "a list was asked for, not the models left out of it"
    for path in routes("GET"):
        if "{model}" in path:
            assert ask(web, viewer, "GET", path, other).status_code == 403, path
    assert ask(web, viewer, "GET", "/api/v1/models/{model}", model).json()["entries"] == 1


def test_versions_are_searched_by_what_they_are_and_only_those_one_may_see_are_found(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    other = f"{model}_b"
    for name, auc in ((model, 0.7), (model, 0.8), (other, 0.9)):
        (tmp_path / name).mkdir(exist_ok=True)
        register(models, name, tmp_path / name, metrics={"test": {"all": {"auc": auc}}}, tags={"team": name})
    viewer = tokens(models, model)["viewer"]

    def search(**query: Any) -> dict[str, Any]:
        return ask(web, viewer, "GET", "/api/v1/search", "", params={"model": f"{model}*", **query}).json()

    def found(**query: Any) -> list[tuple[str, int]]:
        return [(each["model"], each["version"]) for each in search(**query)["versions"]]

    assert found(order="-auc") == [(model, 2), (model, 1)]
    assert found(metric=["auc>=0.75", "auc<=0.95"]) == [(model, 2)]
    assert found(tag=f"team={other}") == []
    assert found(tag=f"team={model}", state="registered", until="2013-01-01") == []
    first = search(order="-created", limit=1)
    assert found(order="-created", limit=3, after=first["next"]) == [(model, 2), (model, 1)]
    wrong = ask(web, viewer, "GET", "/api/v1/search", "", params={"metric": "auc>0.7"})
    assert (wrong.status_code, "NAME<=VALUE" in wrong.text) == (422, True)


def test_a_token_that_was_revoked_is_worth_nothing_at_the_next_request(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    register(models, model, tmp_path)
    token = tokens(models, model)["viewer"]
    assert ask(web, token, "GET", "/api/v1/models/{model}", model).status_code == 200
    Access(models.store).withdraw(token.split("_")[1], **WHO)
    answer = ask(web, token, "GET", "/api/v1/models/{model}", model)
    assert (answer.status_code, "revoked" in answer.text) == (401, True)


def test_versions_come_newest_first_and_by_pages(
    models: Registry, web: TestClient, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        register(models, model, tmp_path)
    token = tokens(models, model)["viewer"]
    path = "/api/v1/models/{model}/versions"

    def page(**query: int) -> list[int]:
        return [each["version"] for each in ask(web, token, "GET", path, model, params=query).json()]

    assert page(limit=2) == [3, 2]
    assert page(limit=2, before=2) == [1]
    monkeypatch.setattr("adin.airflow.web.pages._SHOWN", 1)
    shown = ask(web, token, "GET", "/models/{model}", model, params={"before": 3}).text
    assert f"/models/{model}/versions/2" in shown
    assert f"/models/{model}/versions/1" not in shown
    assert f"/models/{model}?before=2" in shown


def test_the_evidence_of_a_version_is_shown_with_its_plots_and_can_do_nothing(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    evidence = {
        "policy": {"primary": "log_loss"},
        "policy_version": 1,
        "policy_hash": "c0ffee",
        "rows": 20,
        "days": 2,
        "unit": "day",
    }
    evidence |= {"checks": [], "metrics": {}, "guardrails": []}
    told = {"outcome": "promoted", "reason": "promoted: good", "against": None, "evidence": evidence}
    import numpy as np

    columns = {"day": np.repeat(["a", "b"], 10), "label": np.tile([0.0, 1.0], 10), "challenger": np.linspace(0, 1, 20)}
    (tmp_path / "report.html").write_text(report.page(model, told, columns))
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    kept = {f"evidence/{name}": tmp_path / name for name in ("report.html", "evaluation.json")}
    models.register(model, facts(), files(tmp_path) | kept, actor="t", run_key=str(tmp_path))
    token = tokens(models, model)["viewer"]
    page = ask(web, token, "GET", "/models/{model}/versions/{version}", model)
    assert f'src="/models/{model}/versions/1/evidence"' in page.text
    assert "frame-src 'self'" in page.headers["content-security-policy"]
    shown = ask(web, token, "GET", "/models/{model}/versions/{version}/evidence", model)
    assert "<svg" in shown.text
    assert "sandbox" in shown.headers["content-security-policy"]
    assert "script-src" not in shown.headers["content-security-policy"]


def test_a_version_that_gave_up_its_files_still_has_its_page(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    kept = files(tmp_path) | {"evidence/evaluation.json": tmp_path / "evaluation.json"}
    models.register(model, facts(), kept, actor="t", run_key=str(tmp_path))
    models.append(model, "expire", version=1, actor="retention", reason="no longer needed")
    page = ask(web, tokens(models, model)["viewer"], "GET", "/models/{model}/versions/{version}", model)
    assert (page.status_code, "gave up its files" in page.text) == (200, True), page.text


def test_a_damaged_log_spoils_its_own_line_and_not_the_list(
    models: Registry, web: TestClient, servers: Servers, model: str, tmp_path: Path
) -> None:
    good, bad = f"{model}_good", f"{model}_bad"
    for name in (good, bad):
        (tmp_path / name).mkdir()
        register(models, name, tmp_path / name)
    access = Access(models.store)
    access.grant(model, "viewer", f"{model}*", **WHO)
    token = access.issue(model, **WHO)
    own = of_edition(servers, "database")
    execute(own, "ALTER TABLE log DISABLE TRIGGER ALL")
    execute(own, f"UPDATE log SET document = replace(document, 'trained', 'drained') WHERE model = '{bad}'")
    try:
        found = {each["model"]: each for each in ask(web, token, "GET", "/api/v1/models", "").json()}
        assert found[good]["entries"] == 1
        assert "broken" in found[bad]["problem"] or "tampered" in found[bad]["problem"]
        page = ask(web, token, "GET", "/models", "")
        assert (page.status_code, f"/models/{good}" in page.text, bad in page.text) == (200, True, True)
    finally:
        execute(own, f"DELETE FROM log WHERE model = '{bad}'")
        execute(own, "ALTER TABLE log ENABLE TRIGGER ALL")


def test_page_and_api_say_which_candidate_was_held_or_invalid_and_why(
    models: Registry, web: TestClient, model: str, tmp_path: Path
) -> None:
    whys = {1: "held: worth a swap: gain 0.0004, needed 0.002", 2: "invalid: missing values: 3 of 900 in challenger"}
    for number, why in whys.items():
        register(models, model, tmp_path)
        models.append(model, "hold", version=number, actor="pipeline", reason=why)
    token = tokens(models, model)["viewer"]
    told = ask(web, token, "GET", "/api/v1/models/{model}/history", model).json()
    assert {each["version"]: each["reason"] for each in told if each["event"] == "hold"} == whys
    timeline = ask(web, token, "GET", "/models/{model}", model).text.split("What happened")[1]
    for number, why in whys.items():
        assert f"<strong>hold</strong> version {number}" in timeline
        assert why in timeline
        assert why in ask(web, token, "GET", f"/models/{model}/versions/{number}", model).text


def test_a_rollback_that_must_be_approved_is_left_to_the_dag_that_asks(
    models: Registry, web: TestClient, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = settings().problems / "flights_delay"
    (tmp_path / model).mkdir()
    text = (source / "problem.yaml").read_text().replace("name: flights_delay", f"name: {model}", 1)
    (tmp_path / model / "problem.yaml").write_text(text + "rollback: {approval: true}\n")
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()
    try:
        register(models, model, tmp_path)
        token = tokens(models, model)["approver"]
        for path in ("/api/v1/models/{model}/rollback", "/models/{model}/rollback"):
            answer = ask(web, token, "POST", path, model)
            assert (answer.status_code, f"rollback__{model}" in answer.text) == (409, True), answer.text
        assert len(models.log(model)) == 1
    finally:
        settings.cache_clear()
