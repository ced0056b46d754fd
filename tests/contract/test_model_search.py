"""Search and comparison of versions: both editions give the same answers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from adin.connections import Connection
from adin.errors import ConfigError
from adin.models import Query, Registry, registry
from model_facts import facts, files
from servers import Servers, execute

pytestmark = pytest.mark.flow(16, 18, 19)

#: Model, AUC, owner, tag team, features, dataset, day made.
VERSIONS: list[tuple[str, float | None, str, str, list[str], str, int]] = [
    ("air", 0.70, "ops", "red", ["a", "b"], "c1aa", 1),
    ("air", 0.74, "ops", "blue", ["a", "b"], "c2bb", 2),
    ("air", None, "lab", "blue", ["a"], "c2cc", 3),
    ("air", 0.72, "lab", "red", ["b"], "c3dd", 4),
    ("air_b", 0.72, "ops", "red", ["a"], "c3dd", 5),
    ("air-b", 0.74, "lab", "blue", ["b"], "c4ee", 6),
    ("sea", 0.71, "ops", "blue", ["a"], "c4ee", 7),
]


@pytest.fixture
def filled(edition: Connection, servers: Servers, model: str, tmp_path: Path) -> tuple[Registry, str]:
    """A registry with the versions above; the prefix of the models' names."""
    models = registry(edition, s3=servers.s3)
    artefacts = files(tmp_path)
    for n, (name, auc, owner, team, features, dataset, day) in enumerate(VERSIONS):
        more = facts(
            owner=owner,
            tags={"team": team},
            features=features,
            signature={"inputs": dict.fromkeys(features, "float64"), "output": {"dtype": "float64"}},
            dataset=dataset,
            created=f"2013-06-{day:02}T00:00:00+02:00",
            metrics={"test": {"all": {"auc": auc}, "origin=JFK": {"auc": 0.9 - 0.01 * n}}},
        )
        models.register(f"{model}_{name}", more, artefacts, actor="test", run_key=f"run-{n}")
    models.append(f"{model}_air", "validate", version=2, actor="test", reason="ok")
    return models, f"{model}_"


def found(filled: tuple[Registry, str], **asked: Any) -> list[str]:
    """Return the names and numbers found, without the prefix, through all pages."""
    models, prefix = filled
    name = prefix + asked.pop("model", "*")
    page = models.search(Query(name, **asked))
    shown = list(page.versions)
    while page.next:
        page = models.search(Query(name, **asked, after=page.next))
        assert page.versions
        shown += page.versions
    return [f"{version.model.removeprefix(prefix)}/{version.number}" for version in shown]


EVERYTHING = ["air/1", "air/2", "air/3", "air/4", "air-b/1", "air_b/1", "sea/1"]


ASKED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, EVERYTHING),
    ({"model": "air"}, ["air/1", "air/2", "air/3", "air/4"]),
    ({"model": "air_*"}, ["air_b/1"]),
    ({"model": "*_b"}, ["air_b/1"]),
    ({"model": "nothing*"}, []),
    ({"tags": {"team": "red"}}, ["air/1", "air/4", "air_b/1"]),
    ({"tags": {"colour": "red"}}, []),
    ({"metrics": {"auc": (0.72, None)}}, ["air/2", "air/4", "air-b/1", "air_b/1"]),
    ({"metrics": {"auc": (0.71, 0.72)}}, ["air/4", "air_b/1", "sea/1"]),
    ({"metrics": {"auc": (None, None)}}, ["air/1", "air/2", "air/4", "air-b/1", "air_b/1", "sea/1"]),
    ({"metrics": {"auc": (0.88, None)}, "slice_": "origin=JFK"}, ["air/1", "air/2", "air/3"]),
    ({"metrics": {"auc": (0, None)}, "split": "train"}, []),
    ({"dataset": "c2"}, ["air/2", "air/3"]),
    ({"dataset": "%"}, []),
    ({"feature": "b"}, ["air/1", "air/2", "air/4", "air-b/1"]),
    ({"state": "validated"}, ["air/2"]),
    ({"owner": "lab"}, ["air/3", "air/4", "air-b/1"]),
    (
        {
            "since": datetime.fromisoformat("2013-06-04T22:00Z"),
            "until": datetime.fromisoformat("2013-06-06T22:00Z"),
        },
        ["air-b/1", "air_b/1"],
    ),
    ({"owner": "ops", "feature": "a", "metrics": {"auc": (0.71, None)}}, ["air/2", "air_b/1", "sea/1"]),
    ({"order": "-model"}, ["air/4", "air/3", "air/2", "air/1", "air-b/1", "air_b/1", "sea/1"]),
    ({"order": "-created"}, ["sea/1", "air-b/1", "air_b/1", "air/4", "air/3", "air/2", "air/1"]),
    ({"order": "auc"}, ["air/1", "sea/1", "air/4", "air_b/1", "air/2", "air-b/1"]),
    ({"order": "-auc"}, ["air/2", "air-b/1", "air/4", "air_b/1", "sea/1", "air/1"]),
]


def test_search_gives_the_same_answer_in_both_editions_page_by_page(filled: tuple[Registry, str]) -> None:
    for limit in (1, 2, 50):
        assert [found(filled, **asked, limit=limit) for asked, _ in ASKED] == [expected for _, expected in ASKED]


def test_a_search_sees_a_state_that_changed_after_the_last_one(filled: tuple[Registry, str]) -> None:
    models, prefix = filled
    assert found(filled, state="challenger") == []
    models.append(f"{prefix}air", "challenge", version=2, actor="test", reason="good")
    assert found(filled, state="challenger") == ["air/2"]
    models.promote(f"{prefix}air", 2, against=None, actor="test", reason="good")
    assert (found(filled, state="challenger"), found(filled, state="champion")) == ([], ["air/2"])
    models.append(f"{prefix}air", "undone", version=2, actor="test", reason="swap failed")
    assert (found(filled, state="validated"), found(filled, state="champion")) == (["air/2"], [])


def test_a_page_of_another_search_is_refused(filled: tuple[Registry, str]) -> None:
    models, prefix = filled
    page = models.search(Query(f"{prefix}*", order="auc", limit=2))
    with pytest.raises(ConfigError, match="first page"):
        models.search(Query(f"{prefix}*", order="created", after=page.next))
    with pytest.raises(ConfigError, match="first page"):
        models.search(Query(f"{prefix}*", after="nonsense"))


@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_what_an_older_release_wrote_to_the_log_alone_is_found_by_the_next_search(
    filled: tuple[Registry, str], servers: Servers
) -> None:
    models, prefix = filled
    execute(servers.database, f"DELETE FROM head WHERE model = '{prefix}air'")
    execute(servers.database, f"DELETE FROM version WHERE model = '{prefix}air'")
    execute(servers.database, f"DELETE FROM version WHERE model = '{prefix}sea'")
    models.append(f"{prefix}air", "validate", version=1, actor="test", reason="ok")
    assert found(filled, state="validated") == ["air/1", "air/2"]
    assert found(filled, model="sea") == []  # its head says that nothing is missing


@pytest.mark.parametrize("edition", ["files"], indirect=True)
def test_many_small_objects_are_copied_together_and_the_copy_can_be_lost_spoilt_or_too_new(
    edition: Connection, servers: Servers, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adin.models.store_files._LOOSE", 3)
    models = registry(edition, s3=servers.s3)
    artefacts = files(tmp_path)
    for n in range(6):
        models.register(model, facts(), artefacts, actor="test", run_key=f"run-{n}")

    def seen() -> list[int]:
        fresh = registry(edition, s3=servers.s3)
        numbers = [version.number for version in fresh.search(Query(model)).versions]
        assert numbers == sorted(fresh.state(model).versions)
        return numbers

    bucket = models.bucket
    copies = [f".cache/{model}/log.json.gz", f".cache/{model}/facts.json.gz"]
    assert seen() == [1, 2, 3, 4, 5, 6]
    assert all(bucket.exists(copy) for copy in copies)
    models.register(model, facts(), artefacts, actor="test", run_key="run-7")
    assert seen() == [1, 2, 3, 4, 5, 6, 7]
    for copy in copies:
        bucket.put(copy, b"spoilt")
    assert seen() == [1, 2, 3, 4, 5, 6, 7]
    bucket.remove(f"{model}/log/{7:020}.json")
    assert seen() == [1, 2, 3, 4, 5, 6]
    for copy in copies:
        bucket.remove(copy)
    assert seen() == [1, 2, 3, 4, 5, 6]
