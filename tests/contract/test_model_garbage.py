"""Garbage collection over a registry: what is kept, what goes, when, and what happens to who comes in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from adin import retention
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConflictError, NotFoundError
from adin.models import Query, Registry, registry
from adin.models.bundle import export_bundle, import_bundle
from adin.models.registry import SWEEP
from adin.settings import settings
from model_facts import facts, files, register, validated
from servers import Servers
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(16)


@pytest.fixture
def models(empty: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("ADIN_CONN_KSERVE", raising=False)
    monkeypatch.setattr("adin.models.garbage._answering", lambda model: None)
    return registry(empty, s3=servers.s3)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let days pass."""

    def set_clock(days: float) -> None:
        for module in ("adin.models.garbage", "adin.retention.phases"):
            monkeypatch.setattr(f"{module}._clock", lambda: datetime.now(UTC) + timedelta(days=days))

    return set_clock


def collect(models: Registry) -> dict[str, list[str]]:
    return _steps(retention.collect(models.store, retention.registry_collectors(models)))


def planned(models: Registry) -> dict[str, list[str]]:
    return _steps(retention.plan(models.store, retention.registry_collectors(models)))


def _steps(found: list[retention.Planned]) -> dict[str, list[str]]:
    steps: dict[str, list[str]] = {}
    for each in found:
        steps.setdefault(each.step, []).append(f"{each.collector}: {each.name}")
    return steps


def orphans(models: Registry, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a registration leaves that is killed before its log entry."""

    class Killed(Exception):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(models, "write", die)
        register(models, model, files(tmp_path / "orphan"), "run-killed")


def everything(models: Registry) -> set[str]:
    return set(models.bucket.objects("")) - {k for k in models.bucket.objects("") if k.startswith(".")}


def test_what_a_killed_registration_left_is_marked_then_deleted_and_nothing_else(
    models: Registry, model: str, tmp_path: Path, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        validated(models, model, files(tmp_path / str(n)), f"run-{n}")
    models.promote(model, 1, against=None, actor="test", reason="first")
    before = everything(models)
    orphans(models, model, tmp_path, monkeypatch)
    orphans(models, f"{model}_never", tmp_path, monkeypatch)
    assert (planned(models), collect(models)) == ({}, {})  # too young: a registration may be under way
    later(2)
    plan = planned(models)
    # notes.txt has the same content as that of the versions of the first model
    assert sorted(name.partition(":")[0] for name in plan["mark"]) == ["model files"] * 3 + ["model manifests"] * 2
    assert planned(models) == plan  # a plan changes nothing
    assert collect(models) == plan
    later(8)
    assert set(planned(models)) == set(collect(models)) == {"wait"}
    later(9.1)
    assert planned(models) == {"delete": plan["mark"]} == collect(models)
    assert collect(models) == planned(models) == {}
    assert everything(models) == before
    assert models.store.manifest_times().keys() == {(model, v.digest) for v in models.versions(model)}
    assert models.verify(model, files=True) == 5


def test_a_version_that_was_never_champion_and_that_nobody_touched_gives_up_its_files_but_not_its_record(
    models: Registry, model: str, tmp_path: Path, later: Any
) -> None:
    for n in range(6):
        validated(models, model, files(tmp_path / str(n)), f"run-{n}")
    models.promote(model, 1, against=None, actor="test", reason="first")
    models.promote(model, 2, against=1, actor="test", reason="better")
    models.append(model, "challenge", version=3, actor="test", reason="next")
    models.append(model, "alias", version=4, alias="mine", actor="test", reason="mine")
    models.append(model, "reject", version=5, actor="test", reason="worse")
    later(89)
    assert planned(models) == {}
    later(91)
    assert collect(models) == {"mark": [f"model versions: {model}/5", f"model versions: {model}/6"]}
    later(99)
    models.append(model, "alias", version=6, alias="late", actor="test", reason="wanted after all")
    steps = collect(models)
    assert (steps["delete"], len(steps["mark"])) == ([f"model versions: {model}/5"], 1)
    assert (models.state(model).expired, models.log(model)[-1].event) == ({5}, "expire")
    later(107)
    (gone,) = collect(models)["delete"]
    rejected = models.version(model, 5)
    assert gone == f"model files: {model}/files/{next(f.sha256 for f in rejected.manifest.files if 'model' in f.name)}"
    with pytest.raises(NotFoundError, match="gave up its files"):
        models.download(model, 5, tmp_path / "got")
    assert [v.number for v in models.search(Query(model, state="rejected")).versions] == [5]
    for number in (1, 2, 3, 4, 6):
        models.download(model, number, tmp_path / f"got-{number}")
    assert models.verify(model, files=True) == len(models.log(model))
    later(500)
    assert collect(models) == {}


def test_a_version_that_answers_somewhere_is_kept_and_all_are_where_that_cannot_be_found_out(
    models: Registry, model: str, tmp_path: Path, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adin.errors import ServiceError

    for n in range(2):
        register(models, model, files(tmp_path / str(n)), f"run-{n}")
    later(91)
    monkeypatch.setattr("adin.models.garbage._answering", lambda model: 2)
    assert planned(models) == {"mark": [f"model versions: {model}/1"]}

    def unreachable(_: str) -> int:
        raise ServiceError("down")

    monkeypatch.setattr("adin.models.garbage._answering", unreachable)
    assert planned(models) == {}


def test_files_of_a_model_that_another_registry_knows_are_left_alone(
    models: Registry, model: str, tmp_path: Path, later: Any
) -> None:
    validated(models, model, files(tmp_path), "run-1")
    theirs = f"{model}_of_another/files/{'a' * 64}"
    models.bucket.upload(theirs, next(iter(files(tmp_path / "theirs").values())))
    later(2)
    assert planned(models) == {}
    models.bucket.remove(theirs)


def test_what_is_wanted_again_loses_its_mark(
    models: Registry, model: str, tmp_path: Path, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans(models, model, tmp_path, monkeypatch)
    later(2)
    assert len(collect(models)["mark"]) == 3
    # the same run, started again after the mark, registers the very same files
    artefacts = {name: tmp_path / "orphan" / name for name in ("model.joblib", "notes.txt")}
    register(models, model, artefacts, "run-killed")
    later(20)
    assert [name.partition(":")[0] for name in collect(models)["delete"]] == ["model manifests"]
    assert models.verify(model, files=True) == 1


@pytest.mark.parametrize("swept", ["before", "during"])
def test_a_registration_puts_back_what_a_collection_took_from_it(
    models: Registry, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: str
) -> None:
    version: Any = None
    real = models.write

    def write(entries: Any, states: Any) -> bool:
        """The collection has read the log just before the entry is there, and deletes just after."""
        written = real(entries, states)
        for file in made:
            models.bucket.remove(f"{model}/files/{file}")
        until = {"until": (datetime.now(UTC) + timedelta(seconds=2)).isoformat()} if swept == "during" else {}
        assert models.store.swap(SWEEP, json.dumps({"by": "x", **until}).encode(), None)
        return written

    import hashlib

    artefacts = files(tmp_path)
    made = [hashlib.sha256(path.read_bytes()).hexdigest() for path in artefacts.values()]
    monkeypatch.setattr(models, "write", write)
    version = models.register(model, facts(), artefacts, actor="test", run_key="run-1")
    assert version.number == 1
    assert models.verify(model, files=True) == 1
    models.bucket.remove(f"{model}/files/{made[0]}")
    monkeypatch.undo()
    models.register(model, facts(), artefacts, actor="test", run_key="run-1")
    assert models.verify(model, files=True) == 1


def test_two_collections_at_once_do_not_both_delete_and_a_dead_one_does_not_stop_the_next(
    models: Registry, model: str, tmp_path: Path, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans(models, model, tmp_path, monkeypatch)
    later(2)
    collect(models)
    later(10)
    until = (datetime.now(UTC) + timedelta(days=10, minutes=5)).isoformat()
    assert models.store.swap(SWEEP, json.dumps({"by": "other", "until": until}).encode(), None)
    with pytest.raises(ConflictError, match="under way"):
        collect(models)
    later(10.1)
    assert len(collect(models)["delete"]) == 3


def test_an_import_brings_back_files_that_are_missing_here(models: Registry, model: str, tmp_path: Path) -> None:
    register(models, model, files(tmp_path), "run-1")
    export_bundle(models, tmp_path / "models.tar")
    for key in everything(models):
        if "/files/" in key:
            models.bucket.remove(key)
    assert [moved.new for moved in import_bundle(models, tmp_path / "models.tar")] == [0]
    assert models.verify(model, files=True) == 1


def test_the_command_shows_the_plan_and_does_it_only_when_told(
    empty: Connection,
    models: Registry,
    servers: Servers,
    model: str,
    tmp_path: Path,
    later: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADIN_CONN_AMVERSION", empty.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    monkeypatch.setenv("ADIN_RETENTION_GRACE_DAYS", "0")
    settings.cache_clear()

    def steps(*words: str) -> list[str]:
        done = CliRunner().invoke(app, ["gc", *words, "--json"], catch_exceptions=False)
        return [each["step"] for each in json.loads(done.stdout)]

    orphans(models, model, tmp_path, monkeypatch)
    later(2)
    try:
        assert [steps(), steps(), steps("--apply")] == [["mark"] * 3] * 3
        assert [steps(), steps("--apply"), steps()] == [["delete"] * 3, ["delete"] * 3, []]
    finally:
        settings.cache_clear()
