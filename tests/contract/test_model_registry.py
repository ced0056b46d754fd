"""What both editions of AMVersion promise, against a real object store and a real PostgreSQL."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from adin.connections import Connection
from adin.errors import AdinError, ConflictError, DataError, NotFoundError, RefusedError, UnreachableError
from adin.models import Query, Registry, artifact, registry
from adin.models.doctor import ensure_safe
from adin.pipelines import steps
from adin.settings import ROOT, settings
from model_facts import facts, files, register, validated
from processes import at_once
from s3_proxy import s3_proxy
from servers import Servers, execute, s3_client

pytestmark = pytest.mark.flow(14, 16)


@pytest.fixture
def models(edition: Connection, servers: Servers) -> Registry:
    return registry(edition, s3=servers.s3)


@pytest.fixture
def artefacts(tmp_path: Path) -> dict[str, Path]:
    return files(tmp_path)


def _registrar(n: int, barrier: Any, queue: Any, edition: Connection, s3: Connection, model: str, path: str) -> None:
    models = registry(edition, s3=s3)
    models.models()  # connected before the race begins
    barrier.wait(60)
    queue.put([register(models, model, {"model.joblib": Path(path)}, f"run-{n}-{i}") for i in range(3)])


def _promoter(n: int, barrier: Any, queue: Any, edition: Connection, s3: Connection, model: str) -> None:
    models = registry(edition, s3=s3)
    against = models.state(model).champion
    barrier.wait(60)
    try:
        models.promote(model, n + 1, against=against, actor=f"promoter-{n}", reason="better")
        queue.put("won")
    except ConflictError:
        queue.put("lost")


def test_four_registrars_at_once_get_twelve_distinct_numbers(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    path = str(artefacts["model.joblib"])
    numbers = [n for each in at_once(4, _registrar, edition, servers.s3, model, path) for n in each]
    assert sorted(numbers) == list(range(1, 13))
    assert [version.number for version in models.versions(model)] == list(range(1, 13))
    assert len({version.manifest.run_key for version in models.versions(model)}) == 12


def test_of_four_promoters_exactly_one_wins(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    for n in range(4):
        validated(models, model, artefacts, f"run-{n}")
    answers = at_once(4, _promoter, edition, servers.s3, model)
    assert sorted(answers) == ["lost", "lost", "lost", "won"]
    promotions = [entry for entry in models.log(model) if entry.event == "promote"]
    assert [entry.version for entry in promotions] == [models.state(model).champion]


def test_registering_again_in_the_same_run_gives_the_same_version(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    first = models.register(model, facts(), artefacts, actor="test", run_key="run-1")
    entries = models.log(model)
    again = models.register(model, facts(), artefacts, actor="test", run_key="run-1")
    assert again == first
    assert models.log(model) == entries


def test_a_promotion_repeated_by_the_same_run_is_written_once(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = validated(models, model, artefacts, "run-1")
    first = models.promote(model, number, against=None, actor="kfp", reason="first", run_key="run-1")
    assert models.promote(model, number, against=None, actor="kfp", reason="first", run_key="run-1") == first
    assert models.state(model).seq == first.seq


@pytest.fixture
def judged_model(model: str, tmp_path: Path) -> Iterator[str]:
    """A problem of a name nobody has used."""
    folder = tmp_path / "problems" / model
    shutil.copytree(ROOT / "include" / "problems" / "flights_delay", folder)
    spec = folder / "problem.yaml"
    spec.write_text(spec.read_text().replace("name: flights_delay", f"name: {model}", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_PROBLEMS", str(folder.parent))
        settings.cache_clear()
        yield model
    settings.cache_clear()


@pytest.mark.parametrize("outcome", ["promoted", "held", "rejected", "invalid", "superseded"])
def test_every_outcome_of_a_judgement_stands_in_the_log_and_history_once_with_its_reason(
    models: Registry,
    edition: Connection,
    servers: Servers,
    judged_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
) -> None:
    judged = "promoted" if outcome == "superseded" else outcome
    model, reason = judged_model, f"{judged}: days: 3, needed 14"
    monkeypatch.setenv("ADIN_CONN_AMVERSION", edition.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    monkeypatch.setattr(steps, "KfpClient", Mock())
    steps.KfpClient.return_value.get.return_value.started_by = ""  # type: ignore[attr-defined]
    champion = validated(models, model, files(tmp_path / "first"), "first")
    models.promote(model, champion, against=None, actor="test", reason="the first")
    for _ in range(2):  # a step may be run twice
        number = steps.register(model, *judgement(tmp_path, judged, reason, champion), "run-1", "run-1")
    if outcome == "superseded":
        other = validated(models, model, files(tmp_path / "other"), "other")
        models.promote(model, other, against=champion, actor="somebody", reason="faster")
        serving = Mock()
        serving.return_value.check.return_value = {"bytes": 0, "replay": None}
        serving.return_value.predict.side_effect = NotFoundError("nothing is under load")
        monkeypatch.setattr("adin.serving.client.ServingClient", serving)
        for _ in range(2):
            assert steps.promote(model, number, tmp_path / "evaluation", "run-1").startswith("superseded")
        serving.return_value.load.assert_not_called()
    expected = {
        "promoted": [("validate", reason)],
        "held": [("hold", reason)],
        "rejected": [("reject", reason)],
        "invalid": [("hold", reason)],
        "superseded": [("validate", reason), ("challenge", models.log(model)[-1].reason)],
    }[outcome]
    told = [entry for entry in registry(edition, s3=servers.s3).log(model) if entry.version == number][1:]
    assert [(entry.event, entry.reason) for entry in told] == expected
    assert told[0].evidence["outcome"] == judged
    assert (told[-1] in models.history(model)) == (outcome != "promoted")
    if outcome == "superseded":
        assert told[-1].reason.startswith("superseded: ")
    else:
        assert models.state(model).champion == champion


def judgement(folder: Path, outcome: str, reason: str, against: int) -> tuple[Path, Path, Path]:
    """Data, model and evaluation as the steps before leave them."""
    given = facts()
    data, model, evaluation = (folder / name for name in ("data", "model", "evaluation"))
    for each in (data, model, evaluation):
        each.mkdir(exist_ok=True)
    kept = ("window", "sources", "service", "registry", "features", "code_version")
    (data / "manifest.json").write_text(json.dumps({name: given[name] for name in kept} | {"commit": given["dataset"]}))
    told = {"outcome": outcome, "reason": reason, "against": against, "evidence": {"policy_hash": "p"}}
    told |= {"metrics": given["metrics"], "signature": given["signature"]}
    (evaluation / "evaluation.json").write_text(json.dumps(told))
    for file in (
        model / artifact.MODEL, model / artifact.CODE,
        *(evaluation / name for name in ("predictions.parquet", "report.html", artifact.REPLAY)),
    ):  # fmt: skip
        file.parent.mkdir(exist_ok=True)
        file.write_text(file.name)
    return data, model, evaluation


def test_a_version_that_was_held_is_as_it_was_and_cannot_be_promoted_unless_somebody_validates_it(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = register(models, model, artefacts, "run-1")
    before = models.state(model)
    models.append(model, "hold", version=number, actor="kfp", reason="held: too few days", run_key="run-1")
    after = models.state(model)
    assert (after.versions, after.aliases, after.mode) == (before.versions, before.aliases, before.mode)
    with pytest.raises(RefusedError, match="it is registered"):
        models.promote(model, number, against=None, actor="kfp", reason="better")
    with pytest.raises(RefusedError, match="registered"):
        models.append(model, "rollback", version=number, actor="duty", reason="back")
    models.append(model, "validate", version=number, actor="ann", reason="seen and found good")
    with pytest.raises(RefusedError, match="it is validated"):
        models.append(model, "hold", version=number, actor="kfp", reason="held: too few days", run_key="run-2")
    models.promote(model, number, against=None, actor="ann", reason="by hand")
    assert models.verify(model) == 4


def test_a_promotion_undone_by_a_failed_swap_can_be_tried_again_by_the_same_run(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    old, new = validated(models, model, artefacts, "run-1"), validated(models, model, artefacts, "run-2")
    models.promote(model, old, against=None, actor="kfp", reason="first", run_key="run-1")
    first = models.promote(model, new, against=old, actor="kfp", reason="better", run_key="run-2")
    models.append(model, "undone", version=new, actor="kfp", reason="server down", run_key="run-2")
    assert (models.state(model).champion, models.state(model).versions[new]) == (old, "validated")
    again = models.promote(model, new, against=old, actor="kfp", reason="better", run_key="run-2")
    assert again.seq > first.seq
    assert models.state(model).champion == new


def test_promotion_is_given_up_when_the_champion_is_not_the_one_compared_with(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    one, two = validated(models, model, artefacts, "run-1"), validated(models, model, artefacts, "run-2")
    models.promote(model, one, against=None, actor="test", reason="first")
    with pytest.raises(ConflictError, match="compared with no champion"):
        models.promote(model, two, against=None, actor="test", reason="better")
    assert models.state(model).champion == one


def test_an_append_on_a_log_that_has_moved_is_refused(models: Registry, model: str, artefacts: dict[str, Path]) -> None:
    number = register(models, model, artefacts, "run-1")
    seen = models.state(model).seq
    models.append(model, "validate", version=number, actor="a", reason="ok", expect_seq=seen)
    with pytest.raises(ConflictError):
        models.append(model, "freeze", actor="b", reason="late", expect_seq=seen)
    assert not models.state(model).frozen


def test_a_frozen_model_refuses_promotion_but_not_rollback(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    one, two, three = (validated(models, model, artefacts, f"run-{n}") for n in range(3))
    models.promote(model, one, against=None, actor="test", reason="first")
    models.promote(model, two, against=one, actor="test", reason="better")
    models.append(model, "freeze", actor="duty", reason="holiday")
    with pytest.raises(RefusedError, match="frozen"):
        models.promote(model, three, against=two, actor="kfp", reason="better")
    models.append(model, "rollback", version=one, actor="duty", reason="late shares", mode="train_only")
    state = models.state(model)
    assert (state.champion, state.previous, state.frozen, state.mode) == (one, two, True, "train_only")


def test_training_can_be_stopped_and_the_model_frozen_before_its_first_version(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    models.append(model, "ct_mode", mode="stopped", actor="ann", reason="wrong data", begin=True)
    models.append(model, "freeze", actor="ann", reason="holiday")
    first = validated(models, model, artefacts, "run-1")
    assert first == 1
    with pytest.raises(RefusedError, match="stopped"):
        models.promote(model, first, against=None, actor="ci", reason="first", automatic=True)
    models.append(model, "ct_mode", mode="auto_deploy", actor="ann", reason="mended")
    with pytest.raises(RefusedError, match="frozen"):
        models.promote(model, first, against=None, actor="ci", reason="first", automatic=True)
    models.append(model, "unfreeze", actor="ann", reason="holiday is over")
    models.promote(model, first, against=None, actor="ci", reason="first", automatic=True)
    assert models.state(model).champion == first


def test_an_automatic_promotion_is_refused_while_training_only(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = validated(models, model, artefacts, "run-1")
    models.append(model, "ct_mode", mode="train_only", actor="duty", reason="migration")
    with pytest.raises(RefusedError, match="train_only"):
        models.promote(model, number, against=None, actor="kfp", reason="better", automatic=True)
    assert models.state(model).champion is None


def _killed(n: int, barrier: Any, queue: Any, edition: Connection, s3: Connection, model: str, args: Any) -> None:
    step, path = args
    models = registry(edition, s3=s3)
    ensure_safe(models.store)

    def die(*_: Any) -> Any:
        queue.put(os.getpid())
        queue.close()
        queue.join_thread()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(models.store, step, die)
    register(models, model, {"model.joblib": Path(path)}, "run-1")


@pytest.mark.parametrize("step", ["put_manifest", "append"])
def test_a_registration_killed_on_the_way_shows_nothing_and_completes_when_run_again(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path], step: str
) -> None:
    path = str(artefacts["model.joblib"])
    at_once(1, _killed, edition, servers.s3, model, (step, path))
    uploaded = list(s3_client(servers.s3).list_objects(servers.bucket, f"{model}/files/", recursive=True))
    assert len(uploaded) == 1
    assert model not in models.models()
    assert (models.versions(model), models.log(model)) == ([], [])
    assert register(models, model, {"model.joblib": Path(path)}, "run-1") == 1
    assert models.models().count(model) == 1
    assert models.verify(model, files=True) == 1


def test_an_entry_whose_reply_got_lost_is_recognised_as_our_own(
    models: Registry, model: str, artefacts: dict[str, Path]
) -> None:
    number = register(models, model, artefacts, "run-1")
    store = models.store
    really = store.append

    def lose_reply(*args: Any) -> bool:
        assert really(*args)
        return False  # what a repeated request is told

    store.append = lose_reply  # type: ignore[method-assign]
    entry = models.append(model, "validate", version=number, actor="test", reason="ok")
    assert models.log(model)[-1] == entry
    assert len(models.log(model)) == 2


def test_a_log_that_was_tampered_with_is_noticed(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    number = validated(models, model, artefacts, "run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better")
    assert models.verify(model) == 3
    _tamper(edition, servers, model, seq=2, old="checks passed", new="checks failed")
    for look in (models.verify, registry(edition, s3=servers.s3).state):
        with pytest.raises(DataError, match=r"entry 2 .* tampered"):
            look(model)


def test_an_entry_taken_out_of_the_log_is_noticed(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    validated(models, model, artefacts, "run-1")
    register(models, model, artefacts, "run-2")
    _remove(edition, servers, model, seq=2)
    with pytest.raises(DataError, match="broken at entry 3"):
        models.verify(model)


def test_a_changed_artefact_is_refused_on_download_and_leaves_no_file(
    models: Registry, servers: Servers, model: str, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    version = models.register(model, facts(), artefacts, actor="test", run_key="run-1")
    folder = models.download(model, 1, tmp_path / "good")
    assert (folder / "model.joblib").read_bytes() == artefacts["model.joblib"].read_bytes()
    assert json.loads((folder / "manifest.json").read_text())["dataset"] == facts()["dataset"]
    file = next(file for file in version.manifest.files if file.name == "model.joblib")
    key = f"{model}/files/{file.sha256}"
    s3_client(servers.s3).put_object(servers.bucket, key, io.BytesIO(b"\0" * file.bytes), file.bytes)
    with pytest.raises(DataError, match="SHA-256"):
        models.download(model, 1, tmp_path / "bad")
    assert not (tmp_path / "bad" / "model.joblib").exists()
    assert not (tmp_path / "bad" / "manifest.json").exists()
    with pytest.raises(DataError):
        models.verify(model, files=True)


@pytest.mark.parametrize("field", ["dataset", "features", "signature", "metrics", "owner", "code_version", "kfp_run"])
def test_a_manifest_that_lacks_a_required_field_is_refused_and_nothing_is_seen(
    models: Registry, model: str, artefacts: dict[str, Path], field: str
) -> None:
    incomplete = {name: value for name, value in facts().items() if name != field}
    with pytest.raises(DataError, match=f"{field}: Field required"):
        models.register(model, incomplete, artefacts, actor="test", run_key="run-1")
    assert model not in models.models()


def numbers(models: Registry, model: str, **asked: Any) -> list[int]:
    return [version.number for version in models.search(Query(model, **asked)).versions]


def test_search_finds_by_metric_dataset_and_state(models: Registry, model: str, artefacts: dict[str, Path]) -> None:
    for number, auc in enumerate([0.70, 0.72, None], start=1):
        metrics = {"test": {"all": {"auc": auc}}}
        register(models, model, artefacts, f"run-{number}", metrics=metrics, dataset=f"c{number}" * 10)
    models.append(model, "validate", version=2, actor="test", reason="ok")
    assert numbers(models, model, metrics={"auc": (0.71, None)}) == [2]
    assert numbers(models, model, dataset="c3") == [3]
    assert numbers(models, model, state="registered") == [1, 3]
    assert numbers(models, model, metrics={"auc": (None, 1)}, state="registered") == [1]


def test_a_reader_sees_what_another_process_wrote_after_it_first_looked(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    register(models, model, artefacts, "run-1")
    other = registry(edition, s3=servers.s3)
    assert other.state(model).versions == {1: "registered"}
    models.append(model, "validate", version=1, actor="test", reason="ok")
    assert other.state(model).versions == {1: "validated"}


def test_an_unknown_version_is_said_to_be_unknown(models: Registry, model: str) -> None:
    assert models.versions(model) == []
    with pytest.raises(NotFoundError):
        models.version(model, 1)
    with pytest.raises(NotFoundError):
        models.append(model, "freeze", actor="test", reason="typo")


def test_an_object_store_that_answers_503_for_a_moment_is_asked_again(
    models: Registry, edition: Connection, servers: Servers, model: str, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        shaky = registry(edition, s3=s3)
        faults.unavailable = 3
        assert register(shaky, model, artefacts, "run-1") == 1
        assert faults.unavailable == 0
        faults.unavailable = 3
        shaky.download(model, 1, tmp_path / "got")
        assert shaky.verify(model, files=True) == 1
    assert faults.unavailable == 0
    assert models.verify(model, files=True) == 1


def test_a_database_that_cut_all_connections_is_connected_to_again(
    servers: Servers, model: str, artefacts: dict[str, Path]
) -> None:
    models = registry(servers.database, s3=servers.s3)
    register(models, model, artefacts, "run-1")
    mine = "FROM pg_stat_activity WHERE application_name = 'adin-models'"
    execute(servers.database, f"SELECT pg_terminate_backend(pid) {mine}")
    assert models.append(model, "validate", version=1, actor="test", reason="ok").seq == 2


def test_a_store_that_stays_down_is_an_error_and_never_an_empty_registry(
    edition: Connection, servers: Servers, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_REGISTRY_PATIENCE", "1")
    settings.cache_clear()
    nowhere = {"host": "127.0.0.1", "port": 1}
    down = registry(replace(edition, **nowhere), s3=replace(servers.s3, **nowhere))
    began = time.monotonic()
    try:
        for look in (down.models, lambda: down.log(model), lambda: down.state(model)):
            # a promotion under way is not undone for it: nothing is known of the version
            with pytest.raises(UnreachableError):
                look()
    finally:
        settings.cache_clear()
    assert time.monotonic() - began < 20


def test_a_wrong_password_is_named_and_never_shown(edition: Connection, servers: Servers) -> None:
    secret = "not-the-password"
    wrong = registry(replace(edition, password=secret), s3=replace(servers.s3, password=secret))
    with pytest.raises(AdinError, match=r"connection (s3|amversion)") as caught:
        wrong.models()
    assert secret not in str(caught.value)


def _tamper(edition: Connection, servers: Servers, model: str, *, seq: int, old: str, new: str) -> None:
    if edition.extra["edition"] == "files":
        client, key = s3_client(servers.s3), f"{model}/log/{seq:020d}.json"
        content = client.get_object(servers.bucket, key).read().replace(old.encode(), new.encode())
        client.put_object(servers.bucket, key, io.BytesIO(content), len(content))
        return
    _behind_the_trigger(
        edition,
        f"UPDATE log SET document = replace(document, '{old}', '{new}') WHERE model = '{model}' AND seq = {seq}",
    )


def _remove(edition: Connection, servers: Servers, model: str, *, seq: int) -> None:
    if edition.extra["edition"] == "files":
        s3_client(servers.s3).remove_object(servers.bucket, f"{model}/log/{seq:020d}.json")
        return
    _behind_the_trigger(edition, f"DELETE FROM log WHERE model = '{model}' AND seq = {seq}")


def _behind_the_trigger(edition: Connection, statement: str) -> None:
    import psycopg2

    with pytest.raises(psycopg2.Error, match="append-only"):
        execute(edition, statement)
    execute(edition, f"SET session_replication_role = replica; {statement}")
