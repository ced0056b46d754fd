"""The doctor: what it finds wrong with a store or with what lies in it, and what is refused then."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConfigError, DataError
from adin.models import Query, Registry, registry
from adin.models.doctor import examine, judge
from model_facts import facts, files, register
from s3_proxy import s3_proxy
from servers import Servers, execute, s3_client
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(16)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contended round takes SeaweedFS more than a second."""
    monkeypatch.setattr("adin.models.doctor._ROUNDS", 2)


@pytest.fixture
def models(empty: Connection, servers: Servers) -> Registry:
    return registry(empty, s3=servers.s3)


def problems(models: Registry) -> dict[str, list[str]]:
    return {each.what.partition(":")[0]: each.problems for each in examine(models) if not each.good}


def test_a_sound_store_is_found_sound_and_nothing_is_left_of_the_races(
    models: Registry, servers: Servers, model: str, tmp_path: Path
) -> None:
    register(models, model, files(tmp_path), "run-1")
    found = examine(models)
    assert [each.what.partition(":")[0] for each in found] == ["store", "access", f"model {model}"]
    assert all(each.good for each in found)
    assert models.models() == [model]
    bucket = models.bucket.name
    assert list(s3_client(servers.s3).list_objects(bucket, ".doctor", recursive=True)) == []
    assert list(s3_client(servers.s3).list_objects(bucket, ".notes/.doctor", recursive=True)) == []


@pytest.mark.parametrize("edition", ["files"], indirect=True)
def test_a_store_that_does_not_know_conditions_is_refused_and_nothing_is_registered(
    empty: Connection, servers: Servers, model: str, tmp_path: Path
) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        faults.blind = True
        careless = registry(empty, s3=s3)
        with pytest.raises(ConfigError, match=r"changes would get lost: Of 8 writers at once \d were told"):
            register(careless, model, files(tmp_path), "run-1")
        assert careless.models() == []
        # the verdict is remembered: by another process, too, without another race
        with pytest.raises(ConfigError, match="changes would get lost"):
            register(registry(empty, s3=s3), model, files(tmp_path), "run-1")
        assert problems(careless)["store"]
        # and withdrawn by the doctor when the store was mended
        faults.blind = False
        assert problems(careless) == {}
        assert register(registry(empty, s3=s3), model, files(tmp_path), "run-1") == 1


@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_a_database_without_its_key_is_refused(empty: Connection, models: Registry, model: str, tmp_path: Path) -> None:
    models.models()  # makes the tables
    execute(empty, "ALTER TABLE log DROP CONSTRAINT log_pkey")
    with pytest.raises(ConfigError, match="changes would get lost"):
        register(models, model, files(tmp_path), "run-1")
    assert models.models() == []


def test_a_verdict_about_another_server_or_of_long_ago_is_not_believed(models: Registry) -> None:
    from adin.models.doctor import _VERDICT, ensure_safe

    store = models.store
    assert judge(store) == []
    content, tag = store.note(_VERDICT) or (b"", "")
    for change in ({"server": "another"}, {"time": "2013-01-01T00:00:00+00:00"}):
        old = {**json.loads(content), "problems": ["lets two win"]}
        assert store.swap(_VERDICT, json.dumps(old | change).encode(), tag)
        ensure_safe(store)
        content, tag = store.note(_VERDICT) or (b"", "")
        assert json.loads(content)["problems"] == []
    assert store.swap(_VERDICT, json.dumps({**json.loads(content), "problems": ["lets two win"]}).encode(), tag)
    with pytest.raises(ConfigError, match="lets two win"):
        ensure_safe(store)


def test_a_spoilt_and_a_lost_artefact_are_both_named(
    models: Registry, servers: Servers, model: str, tmp_path: Path
) -> None:
    for n in range(3):
        register(models, f"{model}_{n}", files(tmp_path / str(n)), "run-1")
    client, bucket = s3_client(servers.s3), models.bucket.name
    for n, name in ((0, "model.joblib"), (0, "notes.txt"), (1, "model.joblib")):
        file = next(file for file in models.version(f"{model}_{n}", 1).manifest.files if file.name == name)
        key = f"{model}_{n}/files/{file.sha256}"
        if n:
            client.remove_object(bucket, key)
        else:
            client.put_object(bucket, key, io.BytesIO(b"x"), 1)
    found = problems(models)
    assert set(found) == {f"model {model}_0", f"model {model}_1"}
    assert sorted(problem.split()[0] for problem in found[f"model {model}_0"]) == ["model.joblib", "notes.txt"]
    assert "No object" in found[f"model {model}_1"][0]


def test_a_lost_manifest_is_named(
    empty: Connection, models: Registry, servers: Servers, model: str, tmp_path: Path
) -> None:
    version = models.register(model, facts(), files(tmp_path), actor="test", run_key="run-1")
    if empty.extra["edition"] == "files":
        models.bucket.remove(f"{model}/manifests/{version.digest}.json")
    else:
        execute(empty, f"SET session_replication_role = replica; DELETE FROM manifest WHERE model = '{model}'")
    assert version.digest[:12] in problems(models)[f"model {model}"][0]


def test_what_is_derived_and_differs_from_the_log_is_made_anew(
    empty: Connection, models: Registry, servers: Servers, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adin.models.store_files._LOOSE", 1)
    artefacts = files(tmp_path)
    for n in range(3):
        register(models, model, artefacts, f"run-{n}")

    def seen() -> list[int]:
        return [v.number for v in registry(empty, s3=servers.s3).search(Query(model, owner="ops-analytics")).versions]

    assert seen() == [1, 2, 3]
    if empty.extra["edition"] == "database":
        execute(empty, f"DELETE FROM version WHERE model = '{model}' AND number = 2")
    else:
        copy = f".cache/{model}/facts.json.gz"
        import gzip

        content = json.loads(gzip.decompress(models.bucket.get(copy)))
        content[models.version(model, 2).digest][1] = "somebody else"
        models.bucket.put(copy, gzip.compress(json.dumps(content).encode()))
    assert seen() == [1, 3]
    assert problems(models) == {}
    assert seen() == [1, 2, 3]


def test_the_command_tells_what_is_wrong_and_fails(
    empty: Connection, models: Registry, servers: Servers, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_CONN_AMVERSION", empty.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)

    def run() -> Any:
        return CliRunner().invoke(app, ["doctor", "--json"])

    version = models.register(model, facts(), files(tmp_path), actor="test", run_key="run-1")
    good = run()
    assert (good.exit_code, [each["good"] for each in json.loads(good.stdout)]) == (0, [True, True, True])
    models.bucket.remove(f"{model}/files/{version.manifest.files[0].sha256}")
    bad = run()
    assert isinstance(bad.exception, DataError)
    assert [each["good"] for each in json.loads(bad.stdout)] == [True, True, False]


@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_a_model_that_cannot_be_reconciled_is_named_and_holds_up_no_other(
    empty: Connection, models: Registry, servers: Servers, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for conn in (empty, servers.s3, Connection("kfp", "127.0.0.1", 9), Connection("kserve", "127.0.0.1", 9)):
        monkeypatch.setenv(f"ADIN_CONN_{conn.name.upper()}", conn.uri)
    other = f"{model}_b"
    for name in (model, other):
        (tmp_path / name).mkdir()
        register(models, name, files(tmp_path / name), f"run-{name}")
    models.append(model, "validate", version=1, actor="test", reason="good")
    models.promote(model, 1, against=None, actor="test", reason="first")
    done = CliRunner().invoke(app, ["doctor", "--no-files", "--reconcile", "--json"])
    found = {each["what"]: each["problems"] for each in json.loads(done.stdout)}
    assert "does not answer" in found[f"serving of {model}"][0]
    assert found[f"serving of {other}"] == []
    assert f"serving of {model}" in str(done.exception)
