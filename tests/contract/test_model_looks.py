"""Search, comparison, aliases and cards by command."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConfigError, NotFoundError, RefusedError
from adin.models import Registry, registry
from model_facts import facts, files
from servers import Servers
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(16, 18, 19)


@pytest.fixture
def models(
    edition: Connection, servers: Servers, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Registry:
    """A registry with two versions that differ in everything that can differ."""
    monkeypatch.setenv("ADIN_CONN_AMVERSION", edition.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    monkeypatch.setenv("COLUMNS", "250")
    made = registry()
    artefacts = files(tmp_path)
    first = facts(tags={"team": "red"})
    metrics = {"test": {"all": {"auc": 0.75, "log_loss": None}, "origin=JFK": {"auc": 0.7}}}
    second = facts(
        dataset="c2" * 20,
        description="<b>bold</b> & dangerous",
        sources={"flights.origin_2h": {"2013-01-02": "changed", "2013-01-03": "cc"}},
        features=["distance", "seats"],
        signature={"inputs": {"distance": "float64", "seats": "int64"}, "output": {"dtype": "float64"}},
        parameters={"max_iter": 300, "depth": 4},
        metrics=metrics,
        parent=1,
        tags={"team": "blue"},
    )
    for n, given in enumerate((first, second)):
        made.register(model, given, artefacts, actor="kfp", run_key=f"run-{n}")
    made.append(model, "validate", version=1, actor="kfp", reason="checks passed")
    made.promote(model, 1, against=None, actor="kfp", reason="first of all")
    return made


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ask(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_search_by_command_pages_and_orders(models: Registry, model: str) -> None:
    page = ask("search", model, "--order", "-auc", "--limit", "1")
    assert [(each["version"], each["state"]) for each in page["versions"]] == [(2, "registered")]
    page = ask("search", model, "--order", "-auc", "--limit", "1", "--after", page["next"])
    assert ([each["version"] for each in page["versions"]], page["next"]) == ([1], "")
    for words, expected in (
        (["--metric", "auc>=0.72", "--metric", "auc<=0.73"], [1]),
        (["--tag", "team=blue"], [2]),
        (["--state", "champion"], [1]),
        (["--feature", "seats"], [2]),
        (["--dataset", "c2c2"], [2]),
        (["--until", "2013-01-01"], []),
    ):
        assert [each["version"] for each in ask("search", model, *words)["versions"]] == expected
    assert "0.7500" in run("search", model)
    for wrong in (["--metric", "auc"], ["--metric", "auc>=high"], ["--tag", "red"], ["--limit", "0"]):
        with pytest.raises(ConfigError):
            run("search", model, *wrong)


def test_versions_are_compared_by_data_parameters_features_and_slices(models: Registry, model: str) -> None:
    found = ask("compare", f"{model}:champion", f"{model}:2")
    assert [(each["version"], each["state"]) for each in found["versions"]] == [(1, "champion"), (2, "registered")]
    rows = {row["name"]: row for part in ("facts", "parameters", "features") for row in found[part]}
    assert rows["max_iter"] == {"name": "max_iter", "values": [200, 300], "same": False}
    assert rows["depth"]["values"] == [None, 4]
    assert rows["seats"]["values"] == [None, "int64"]
    assert rows["distance"]["values"] == ["int64", "float64"]
    assert (rows["code_version"]["same"], rows["dataset"]["same"]) == (True, False)
    (source,) = found["sources"]
    assert (source["partitions"], source["added"], source["dropped"], source["made_anew"]) == (
        [2, 2],
        [0, 1],
        [0, 1],
        [0, 1],
    )
    metrics = {(row["slice"], row["name"]): row for row in found["metrics"]}
    assert metrics["all", "auc"]["change"][1] == pytest.approx(0.03)
    assert metrics["all", "log_loss"]["change"] == [0, None]
    assert metrics["origin=JFK", "auc"]["values"] == [None, 0.7]
    text = run("compare", model, f"{model}:2")
    assert "(+0.0300)" in text
    assert "code_version" not in text
    assert "code_version" in run("compare", model, f"{model}:2", "--all")
    with pytest.raises(ConfigError, match="two or more"):
        run("compare", model)
    with pytest.raises(NotFoundError, match="aliases: champion"):
        run("compare", model, f"{model}:nobody")


def test_users_name_versions_and_the_log_knows(models: Registry, model: str) -> None:
    assert ask("alias", model, "candidate", "2")["aliases"] == {"candidate": 2}
    assert models.resolve(f"{model}:candidate") == (model, 2)
    entries = ask("alias", model, "candidate", "2")["entries"]
    assert ask("alias", model, "candidate", "1") == {**ask("alias", model, "candidate", "1"), "entries": entries + 1}
    assert ask("alias", model, "candidate")["aliases"] == {}
    for wrong in (["champion", "2"], ["v3", "2"], ["No", "2"], ["good", "9"]):
        with pytest.raises(RefusedError):
            run("alias", model, *wrong)
    assert [e.alias for e in models.log(model) if e.event == "alias"] == ["candidate"] * 3


class _Page(HTMLParser):
    """What a page loads from elsewhere, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_card_tells_all_that_is_on_record_and_needs_nothing_else(
    models: Registry, model: str, tmp_path: Path
) -> None:
    found = ask("card", f"{model}:2")
    assert (found["state"], found["aliases"], found["manifest"]["dataset"]) == ("registered", [], "c2" * 20)
    assert [entry["event"] for entry in found["history"]] == ["register"]
    assert found["against_parent"]["versions"][0]["version"] == 1
    path = tmp_path / "card.html"
    run("card", f"{model}:2", "--html", str(path))
    source = path.read_text()
    page = _Page()
    page.feed(source)
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "b"} & set(page.tags)
    assert not re.search(r"url\(|@import", source)
    assert "<b>bold</b> & dangerous" in page.text
    digests = [file["sha256"] for file in found["manifest"]["files"]]
    for told in (model, "c2" * 20, "seats", "max_iter", "origin=JFK", "0.7500", "+0.0300", "trained", "blue", *digests):
        assert told in page.text, told


def test_the_card_of_a_first_version_has_nothing_to_be_compared_with(
    models: Registry, model: str, tmp_path: Path
) -> None:
    found = ask("card", model, "--html", str(tmp_path / "card.html"))
    assert (found["against_parent"], found["aliases"], found["state"]) == (None, ["champion"], "champion")
    assert [entry["event"] for entry in found["history"]] == ["register", "validate", "promote"]
    assert "first of all" in (tmp_path / "card.html").read_text()
