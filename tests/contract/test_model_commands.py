"""The commands ``adin model ..`` against a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import NotFoundError, RefusedError
from adin.models import Registry, registry
from model_facts import facts, validated
from servers import Servers
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(14, 18)


@pytest.fixture
def models(edition: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ADIN_CONN_AMVERSION", edition.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    monkeypatch.setenv("COLUMNS", "200")
    return registry()


@pytest.fixture
def artefacts(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "model.joblib").write_bytes(b"model")
    return {"model.joblib": tmp_path / "model.joblib"}


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ask(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_from_a_version_one_can_walk_back_to_commit_window_and_source_partitions(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = validated(models, model, artefacts, "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="first", run_key="run-1")
    shown = ask("show", model)
    assert (shown["version"], shown["state"]) == (1, "champion")
    assert shown["dataset"] == facts()["dataset"]
    assert shown["window"] == facts()["window"]
    assert shown["sources"] == facts()["sources"]
    text = run("show", model, "1")
    assert facts()["dataset"] in text
    assert "flights.origin_2h" in text
    assert "0.7200" in text


def test_a_freeze_by_command_stops_promotion_until_it_is_lifted(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = validated(models, model, artefacts, "run-1")
    assert ask("freeze", model, "--reason", "holiday")["frozen"] is True
    assert ask("freeze", model)["entries"] == 3
    with pytest.raises(RefusedError):
        models.promote(model, number, against=None, actor="kfp", reason="first")
    assert ask("unfreeze", model)["frozen"] is False
    models.promote(model, number, against=None, actor="kfp", reason="first")
    events = [entry["event"] for entry in ask("history", model)]
    assert events == ["freeze", "unfreeze", "promote"]
    assert "holiday" in run("history", model)
    assert len(ask("history", model, "--all")) == 5


def test_a_problem_can_be_frozen_before_its_first_version(
    models: Registry, model: str, artefacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adin.control.ct.names", lambda: [model])
    assert ask("freeze", model, "--reason", "holiday")["frozen"] is True
    number = validated(models, model, artefacts, "run-1")
    with pytest.raises(RefusedError, match="frozen"):
        models.promote(model, number, against=None, actor="kfp", reason="first")
    assert ask("unfreeze", model)["frozen"] is False
    models.promote(model, number, against=None, actor="kfp", reason="first")


def test_models_and_versions_are_listed(models: Registry, model: str, artefacts: dict[str, Path]) -> None:
    validated(models, model, artefacts, "run-1")
    assert model in [each["model"] for each in ask("list")]
    assert model in run("list")
    assert [each["state"] for each in ask("list", model)] == ["validated"]
    assert "0.7200" in run("list", model)


def test_an_unknown_model_is_an_error_that_names_the_known_ones(models: Registry) -> None:
    for words in (["show"], ["history"], ["freeze"], ["unfreeze"], ["list"]):
        with pytest.raises(NotFoundError, match="Known models"):
            run(*words, "nobody")
