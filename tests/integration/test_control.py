"""Stop, freeze, roll back and come back: real Kubeflow runs, a real model server, registry, object store and Redis."""
# No `from __future__ import annotations`: kfp reads the annotations themselves.

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import kfp
import numpy as np
import pandas as pd
import pytest
from adin import control
from adin.commands.model import app
from adin.connections import Connection, connection
from adin.control import swap
from adin.errors import ConflictError, ModelError, RefusedError, RunFailedError, UnreachableError
from adin.features import repo
from adin.models import Registry, artifact, registry
from adin.pipelines import compiled, steps
from adin.pipelines.client import KfpClient
from adin.serving.client import ServingClient
from adin.settings import ROOT, settings
from adin.stack.kfp.attempt import processes
from airflow_connections import variables
from kfp import compiler, dsl
from kfp_server import LocalKfp
from server_fixtures import own_registry
from servers import Servers
from test_serving import CORNER, MODEL, SHOP, Server, register, until, url, world
from typer.testing import CliRunner

pytestmark = [pytest.mark.ml, pytest.mark.flow(14, 21), pytest.mark.filterwarnings("ignore")]

__all__ = ["world"]

#: A train.py whose model answers a number of times, then no more: it loads, and fails under load.
FAILS = """
def _predict(self, frame):
    self.asked = getattr(self, "asked", 0) + 1
    if self.asked > {times}:
        raise MemoryError("this model does not last")
    return np.zeros(len(frame))


Bill.predict = _predict
"""


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def deploy(problem: str, version: int, folder: str, key: str, awaited: str) -> str:
    """The deploy step of training, which first waits as if the model was still being trained."""
    import time
    from pathlib import Path

    from adin.pipelines import steps

    Path(f"{awaited}.began").touch()
    while not Path(awaited).exists():
        time.sleep(0.05)
    outcome = steps.promote(problem, version, Path(folder), key)
    Path(f"{awaited}.outcome").write_text(outcome)
    return outcome


@dsl.pipeline(name="deploying")
def deploying(problem: str, dataset: str, version: int, folder: str, key: str, awaited: str) -> None:
    deploy(problem=problem, version=version, folder=folder, key=key, awaited=awaited)


@pytest.fixture(scope="module")
def servers(stack: dict[str, Connection]) -> Iterator[Servers]:
    """A registry of this module's own: other modules count on being the first."""
    with own_registry(stack) as found:
        yield found


@pytest.fixture(scope="module")
def kfp_server(world: Path) -> Iterator[LocalKfp]:
    server = LocalKfp(world / "kfp").start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_KFP", server.conn.uri)
        yield server
    server.stop()


@pytest.fixture(scope="module")
def server(world: Path, kfp_server: LocalKfp) -> Iterator[Server]:
    """A model server for versions 1, 2 and 3, each of which was champion in its time; the factor is the number."""
    promoted(1)
    server = Server(world / "server.log")
    until(lambda: ServingClient().status(MODEL)["ready"], 60)
    yield server
    server.kill()
    print((world / "server.log").read_text())


@pytest.fixture
def models(server: Server) -> Registry:
    """The registry with three champions one after the other; the last is under load, not pinned, and deployable."""
    models = registry()
    state = models.state(MODEL)
    if state.frozen:
        models.append(MODEL, "unfreeze", actor="test", reason="new test")
    if state.mode != "auto_deploy":
        models.append(MODEL, "ct_mode", mode="auto_deploy", actor="test", reason="new test")
    for _ in range(2):
        promoted()
    number = models.state(MODEL).champion
    ServingClient().load(MODEL, number)
    models.append(MODEL, "served", version=number, actor="test", reason="new test")
    return models


def promoted(factor: float = 2.0) -> int:
    number = validated(factor)
    registry().append(MODEL, "promote", version=number, actor="test", reason="test")
    return number


def validated(factor: float = 2.0, code: str = "") -> int:
    number = register(factor, code=code)
    registry().append(MODEL, "validate", version=number, actor="test", reason="test")
    return number


def champions() -> tuple[int, int]:
    """The champion and the one before."""
    state = registry().state(MODEL)
    assert state.champion is not None and state.previous is not None
    return state.champion, state.previous


def evaluation(folder: Path, against: int | None) -> Path:
    """A verdict as the step ``evaluate`` leaves it."""
    folder.mkdir(exist_ok=True)
    told = {"against": against, "reason": "better", "evidence": {"policy_hash": "hash"}, "outcome": "promoted"}
    (folder / "evaluation.json").write_text(json.dumps(told))
    return folder


@contextmanager
def in_flight(
    folder: Path, version: int, against: int, experiment: str = settings().production_experiment
) -> Iterator[tuple[str, Path]]:
    """A run that has trained and is about to deploy; it goes on when the file is there."""
    package = folder / "deploying.yaml"
    compiler.Compiler().compile(deploying, str(package))
    awaited, key = folder / "awaited", secrets.token_hex(4)
    arguments = {"problem": MODEL, "dataset": "none", "version": version, "key": key, "awaited": str(awaited)}
    arguments["folder"] = str(evaluation(folder / "evaluation", against))
    run = KfpClient().submit(package, arguments, name=f"training-{key}", experiment=experiment)
    until(lambda: Path(f"{awaited}.began").exists(), 60)
    try:
        yield run, awaited
    finally:
        awaited.touch()


@contextmanager
def load() -> Iterator[list[tuple[int, int]]]:
    """Four users who ask all the time; gives what they got: (status, version), in order."""
    stop, answers = threading.Event(), []
    headers = ServingClient()._http.headers

    def ask() -> None:
        with httpx.Client(base_url=url(), headers=headers, timeout=30) as http:
            while not stop.is_set():
                answer = http.post(f"/v1/models/{MODEL}:predict", json={"instances": [CORNER]})
                answers.append((answer.status_code, answer.json().get("model_version")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > 20, 60)
        yield answers
        end = len(answers) + 20
        until(lambda: len(answers) > end, 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def answers() -> int:
    return int(ServingClient().predict(MODEL, [CORNER])["model_version"])


def wait(run: str) -> None:
    KfpClient().wait(run, timeout=180, poll=0.1)


# -- continuous training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["freeze", "stop", "train_only"])
def test_a_run_in_flight_does_not_deploy_after_freeze_or_stop(models: Registry, tmp_path: Path, how: str) -> None:
    champion, _ = champions()
    number = validated(9.0)
    with in_flight(tmp_path, number, champion) as (run, awaited):
        if how == "freeze":
            models.append(MODEL, "freeze", actor="test", reason="holiday")
        else:
            mode = "train_only" if how == "train_only" else "stopped"
            assert len(control.stop(MODEL, actor="test", reason="holiday", mode=mode)) == 1
    wait(run)
    assert Path(f"{awaited}.outcome").read_text().startswith("held")
    assert models.state(MODEL).champion == champion == answers()


def test_a_run_in_flight_deploys_where_nothing_forbids_it(models: Registry, tmp_path: Path) -> None:
    champion, _ = champions()
    number = validated(9.0)
    with in_flight(tmp_path, number, champion) as (run, awaited):
        assert [found.run_id for found in control.ct.in_flight(MODEL)] == [run]
    wait(run)
    assert Path(f"{awaited}.outcome").read_text() == "promoted"
    assert models.state(MODEL).served == number == answers()


def test_stop_can_cancel_the_run_in_flight(models: Registry, tmp_path: Path) -> None:
    champion, _ = champions()
    number = validated(9.0)
    with in_flight(tmp_path, number, champion) as (run, awaited):
        control.stop(MODEL, actor="test", reason="wrong data", running="cancel")
        assert KfpClient().state(run) == "CANCELED"
    assert not Path(f"{awaited}.outcome").exists()
    assert control.ct.in_flight(MODEL) == []
    assert models.state(MODEL).mode == "stopped"
    assert models.state(MODEL).champion == champion == answers()


def test_stop_leaves_the_runs_of_experiments_alone(models: Registry, tmp_path: Path) -> None:
    champion, _ = champions()
    with in_flight(tmp_path, validated(9.0), champion, experiment="trials of ann") as (run, _):
        assert control.stop(MODEL, actor="test", reason="wrong data", running="cancel") == []
        assert KfpClient().state(run) == "RUNNING"
    wait(run)


def test_stop_and_resume_may_be_repeated_and_status_tells_who_and_why(models: Registry) -> None:
    for _ in range(2):
        control.stop(MODEL, actor="ann", reason="bad source")
    found = control.status(MODEL)
    assert (found.mode, found.set_by, found.reason, found.in_flight) == ("stopped", "ann", "bad source", [])
    before = models.state(MODEL).seq
    for _ in range(2):
        assert control.resume(MODEL, actor="bob", reason="mended").mode == "auto_deploy"
    assert models.state(MODEL).seq == before + 1


# -- the deployment itself ------------------------------------------------------------------------------------------


def test_a_version_that_fails_under_load_gives_way_to_the_former_and_freezes_the_model(
    models: Registry, tmp_path: Path
) -> None:
    champion, _ = champions()
    number = validated(7.0, code=FAILS.format(times=4))
    folder = evaluation(tmp_path / "evaluation", champion)
    with pytest.raises(RefusedError, match=r"must not stay under load: .* requests failed"):
        steps.promote(MODEL, number, folder, "fails")
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen) == (champion, champion, True)
    assert answers() == champion
    with pytest.raises(RefusedError, match="failed"):
        steps.promote(MODEL, number, folder, "fails")  # the retry of the same step
    assert steps.promote(MODEL, validated(8.0), folder, "next training").startswith("held")
    assert answers() == champion
    assert control.unfreeze(MODEL, actor="test", reason="mended").champion == champion


def test_a_model_server_that_dies_during_a_promotion_costs_a_second_try_not_the_version(
    models: Registry, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, _ = champions()
    number = validated(6.0)
    folder = evaluation(tmp_path / "evaluation", champion)
    look = swap.guard

    def dying(*given: Any) -> dict[str, Any]:
        server.kill()
        return look(*given)

    with monkeypatch.context() as patch:
        patch.setattr(swap, "guard", dying)
        with pytest.raises(UnreachableError):
            steps.promote(MODEL, number, folder, "dies")
    server.start()
    until(lambda: ServingClient().status(MODEL)["ready"], 60)
    assert steps.promote(MODEL, number, folder, "dies") == "promoted"
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen) == (number, number, False)
    assert answers() == number


def test_a_version_compared_with_a_champion_of_yesterday_is_superseded(models: Registry, tmp_path: Path) -> None:
    _, before = champions()
    outcome = steps.promote(MODEL, validated(8.0), evaluation(tmp_path / "evaluation", before), "late")
    assert outcome.startswith("superseded")
    told = models.log(MODEL)[-1]
    assert (told.event, told.reason, models.state(MODEL).challenger) == ("challenge", outcome, told.version)
    assert answers() == models.state(MODEL).champion


def test_a_killed_freeze_is_made_up_for(models: Registry) -> None:
    champion, _ = champions()
    number = promoted(8.0)
    models.append(MODEL, "undone", version=number, actor="test", reason="failed", evidence={"freeze": True})
    assert any("froze" in line for line in control.reconcile(MODEL, actor="test"))
    assert models.state(MODEL).frozen
    assert models.state(MODEL).champion == champion == answers()


# -- evidence -------------------------------------------------------------------------------------------------------


def planted(folder: Path, end: str, **more: Any) -> Path:
    """A dataset version as the step ``load`` leaves it: forty days whose bills are the true ones."""
    rng = np.random.default_rng(5)
    columns = list(repo.service("shop", "counter").columns)
    for split, days in (("train", 5), ("validate", 5), ("test", 40)):
        count = days * 30
        rows = pd.DataFrame({column: rng.uniform(1, 9, count) for column in columns})
        rows["takings__orders"] = rng.integers(0, 9, count).astype("int32")
        rows["takings__cents"] = rng.integers(0, 9, count)
        rows["prices__level"] = rng.integers(0, 3, count).astype("int32")
        rows["takings__open"] = rng.random(count) < 0.5
        rows["takings__keeper"] = rng.choice(["Ann", "Bob"], count)
        rows["takings__opened_at"] = pd.Timestamp("2013-01-01")
        for column in ("takings__mean", "prices__bread"):
            rows[column] = rows[column].astype("float32")
        rows.loc[rng.random(count) < 0.2, "takings__amount"] = np.nan
        rows["asked_at"] = pd.Timestamp("2013-11-01", tz="UTC") + pd.to_timedelta(np.arange(count) // 30, unit="D")
        rows["paid"] = rows["bill__total"] * 2 + rows["takings__amount"].notna() + rng.normal(0, 0.5, count)
        target = folder / "data" / f"split={split}"
        target.mkdir(parents=True)
        rows.to_parquet(target / "part-0.parquet")
    manifest = {
        "commit": secrets.token_hex(20),
        "window": f"2013-01-01T00:00:00Z/{end}T00:00:00Z",
        "sources": {},
        "service": "counter",
        "registry": "definitions-1",
        "features": columns,
        "code_version": "test",
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def trained(folder: Path, factor: float) -> Path:
    source = SHOP / "problems" / MODEL / "train.py"
    artifact.save(artifact.code(source).fit(None, None, {"factor": factor}), source, folder / "model")
    return folder / "model"


def test_the_evidence_of_a_decision_is_kept_with_the_version_and_shown(models: Registry, tmp_path: Path) -> None:
    wrong = promoted(1.0)  # the champion: bills are twice what it says
    data, found = planted(tmp_path / "data", "2013-12-11"), tmp_path / "evaluation"
    model = trained(tmp_path, 2.0)
    steps.evaluate(MODEL, data, model, found)
    number = steps.register(MODEL, data, model, found, "evidence", "run")
    assert steps.gate(found)
    assert steps.promote(MODEL, number, found, "evidence") == "promoted"
    assert answers() == number

    kept = models.download(MODEL, number, tmp_path / "kept") / "evidence"
    predictions = pd.read_parquet(kept / "predictions.parquet")
    assert list(predictions) == ["day", "label", "challenger", "champion"]
    assert predictions["day"].nunique() == 40
    page = (kept / "report.html").read_text()
    assert page.count("<svg") == 2 and "Gain of mae by day" in page and f"version {wrong}" in page
    assert "<script" not in page and "http" not in page
    entry = next(e for e in reversed(models.log(MODEL)) if e.event == "promote")
    assert entry.evidence["infrastructure"]["replay"]["rows"] == 200
    assert entry.evidence["infrastructure"]["replay"]["max_difference"] == 0
    assert "guard" in next(e for e in reversed(models.log(MODEL)) if e.event == "served").evidence

    shown = CliRunner().invoke(app, ["evidence", MODEL, str(number), "--json"], catch_exceptions=False)
    told = json.loads(shown.stdout)
    assert (told["outcome"], told["against"]) == ("promoted", wrong)
    assert told["evidence"]["interval"][0] > 0
    text = CliRunner().invoke(app, ["evidence", MODEL, str(number), "--save", str(tmp_path / "saved")]).stdout
    assert "better beyond doubt" in text
    assert (tmp_path / "saved" / "report.html").read_text() == page


def test_rows_a_champion_has_learned_from_judge_nobody_also_after_the_split_was_changed(
    models: Registry, tmp_path: Path
) -> None:
    # its own split let it learn up to ten days before the end; today's problem.yaml would say months before
    promoted(1.0)
    once = planted(tmp_path / "once", "2013-11-21", split={"validation": "5d", "test": "5d"})
    judged = tmp_path / "once-judged"
    steps.evaluate(MODEL, once, trained(tmp_path / "once-made", 1.5), judged)
    number = steps.register(MODEL, once, trained(tmp_path / "once-made", 1.5), judged, "split once", "run")
    assert models.state(MODEL).versions[number] == "validated"
    models.append(MODEL, "promote", version=number, actor="test", reason="test")
    data, found = planted(tmp_path / "data", "2013-12-11"), tmp_path / "evaluation"
    steps.evaluate(MODEL, data, trained(tmp_path / "made", 2.0), found)
    days = pd.read_parquet(found / "predictions.parquet")["day"]
    assert (days.min(), days.max()) == ("2013-11-11", "2013-12-10")


def test_a_served_model_that_differs_from_the_evaluated_one_is_held(models: Registry, tmp_path: Path) -> None:
    champion = promoted(1.0)
    data, found = planted(tmp_path / "data", "2013-12-12"), tmp_path / "evaluation"
    steps.evaluate(MODEL, data, trained(tmp_path / "evaluated", 2.0), found)
    number = steps.register(MODEL, data, trained(tmp_path / "registered", 2.5), found, "differs", "run")
    outcome = steps.promote(MODEL, number, found, "differs")
    assert outcome.startswith("held") and "differs from the evaluated one" in outcome
    assert (models.state(MODEL).challenger, models.log(MODEL)[-1].reason) == (number, outcome)
    assert models.state(MODEL).champion == champion
    assert "differs" in control.plan(MODEL, str(number)).obstacles[-1]


# -- rollback -------------------------------------------------------------------------------------------------------


def test_rollback_to_a_version_under_load_fails_no_request(models: Registry, record_property: Any) -> None:
    champion, before = champions()
    found = control.plan(MODEL, str(before)).check()
    assert (found.champion, found.version, found.features_added, found.obstacles) == (champion, before, [], [])
    with load() as got:
        began = time.monotonic()
        wait(control.submit(MODEL, str(before), reason="late share jumped", by="ann"))
        record_property("seconds", round(time.monotonic() - began, 1))
        print(f"rollback took {time.monotonic() - began:.1f} s")
    assert {status for status, _ in got} == {200}
    assert {version for _, version in got} == {champion, before}
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen, state.mode) == (before, before, True, "train_only")
    events = [(e.event, e.actor) for e in models.log(MODEL)[-4:]]
    assert events == [("ct_mode", "ann"), ("rollback", "ann"), ("served", "ann"), ("ct_mode", "ann")]


def test_rollback_to_a_time_by_a_bare_kfp_client_fails_no_request(models: Registry, kfp_server: LocalKfp) -> None:
    _, before = champions()
    moment = next(e.time for e in models.log(MODEL) if e.event == "promote" and e.version == before)
    stock = kfp.Client(host=kfp_server.conn.url, existing_token=kfp_server.token)
    with load() as got:
        run = stock.create_run_from_pipeline_package(
            str(compiled("rollback")), arguments={"model": MODEL, "target": moment.isoformat()}
        )
        assert run.wait_for_run_completion(timeout=120).state == "SUCCEEDED"
    assert {status for status, _ in got} == {200}
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen, state.mode) == (before, before, True, "train_only")
    assert answers() == before


def test_unfreeze_brings_back_champion_and_mode(models: Registry) -> None:
    champion, before = champions()
    wait(control.submit(MODEL, "previous", reason="test", by="ann"))
    assert answers() == before
    state = control.unfreeze(MODEL, actor="bob", reason="false alarm")
    assert (state.champion, state.served, state.frozen, state.mode) == (champion, champion, False, "auto_deploy")
    assert answers() == champion


def test_unfreeze_can_keep_the_version_and_only_lift_the_pin(models: Registry) -> None:
    _, before = champions()
    wait(control.submit(MODEL, "previous", reason="test", by="ann"))
    state = control.unfreeze(MODEL, keep_version=True, actor="bob", reason="it is good")
    assert (state.champion, state.frozen, state.mode) == (before, False, "train_only")
    assert answers() == before


def test_a_frozen_model_can_be_rolled_back_and_the_way_back_is_to_before_the_pin(models: Registry) -> None:
    champion, before = champions()
    models.append(MODEL, "freeze", actor="test", reason="holiday")
    wait(control.submit(MODEL, str(before), reason="test", by="ann"))
    wait(control.submit(MODEL, "previous", reason="still bad", by="ann"))
    further = models.state(MODEL).champion
    assert further not in (champion, before)
    assert answers() == further
    assert control.unfreeze(MODEL, actor="bob", reason="false alarm").champion == champion == answers()


def test_a_rollback_asked_for_twice_is_done_once(models: Registry) -> None:
    _, before = champions()
    run = control.submit(MODEL, "previous", reason="test", by="ann")
    assert control.submit(MODEL, "previous", reason="test", by="ann") == run
    wait(run)
    assert [e.version for e in models.log(MODEL)[-4:] if e.event == "rollback"] == [before]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: register(3.0), "never found good enough"),
        (lambda: validated(3.0, code=FAILS.format(times=0)), "does not last"),
    ],
    ids=["not good enough", "fails at what it is asked"],
)
def test_a_target_that_cannot_come_under_load_changes_nothing(
    models: Registry, made: Callable[[], int], why: str
) -> None:
    champion, _ = champions()
    number = made()
    seq = models.state(MODEL).seq
    assert why in control.plan(MODEL, str(number)).obstacles[0]
    with pytest.raises(RunFailedError, match=f"cannot go back to version {number}: .*{why}"):
        wait(control.submit(MODEL, str(number), reason="test", by="ann"))
    assert models.state(MODEL).seq == seq
    assert answers() == champion


def go_back(models: Registry) -> str:
    """Roll back to the previous champion as pages and CLI do: what the plan has found is what is asked for."""
    return control.submit(MODEL, str(control.plan(MODEL, "previous").version), reason="test", by="ann")


def kill_a_rollback(models: Registry, after: str) -> None:
    """Kill a rollback just behind one of its log entries; where it was faster than we looked, the next one."""
    for _ in range(5):
        seq = models.state(MODEL).seq
        run = go_back(models)
        while not any(entry.event == after for entry in models.log(MODEL)[seq:]):
            time.sleep(0.002)
        for pid in processes(run):
            os.kill(pid, signal.SIGKILL)
        until(lambda run=run: KfpClient().state(run) in ("FAILED", "SUCCEEDED"), 60)  # type: ignore[misc]
        begun = control.history.begun(models.log(MODEL))
        if begun is not None and begun.pinned == (after == "rollback"):
            return
        control.reconcile(MODEL, actor="test")
        control.unfreeze(MODEL, actor="test", reason="killed too late")
    raise AssertionError("every rollback was faster than we looked")


@pytest.mark.parametrize("after", ["ct_mode", "rollback"])
@pytest.mark.parametrize("then", ["repeat", "reconcile"])
def test_a_rollback_killed_in_the_middle_is_completed_or_given_up(models: Registry, after: str, then: str) -> None:
    champion, before = champions()
    kill_a_rollback(models, after)
    with pytest.raises(RefusedError, match="has not ended"):
        control.resume(MODEL, actor="test", reason="in the middle")
    if then == "repeat":
        wait(go_back(models))
    else:
        control.reconcile(MODEL, actor="bob")
    state = models.state(MODEL)
    rolled = then == "repeat" or after == "rollback"
    expected = (before, True, "train_only") if rolled else (champion, False, "auto_deploy")
    assert (state.champion, state.frozen, state.mode) == expected
    assert answers() == state.champion == state.served
    if rolled:
        state = control.unfreeze(MODEL, actor="bob", reason="false alarm")
        assert (state.champion, state.mode) == (champion, "auto_deploy")
    assert control.reconcile(MODEL, actor="bob") == []


def test_a_target_that_fails_only_under_load_gives_way_to_the_former(models: Registry) -> None:
    champion, _ = champions()
    broken = validated(3.0, code=FAILS.format(times=1))
    assert control.plan(MODEL, str(broken)).obstacles == []
    with pytest.raises(RunFailedError, match="does not last"):
        wait(control.submit(MODEL, str(broken), reason="test", by="ann"))
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen, state.mode) == (champion, champion, False, "auto_deploy")
    assert models.log(MODEL)[-1].event == "ct_mode"
    assert answers() == champion


@pytest.mark.parametrize("again", ["unfreeze", "reconcile"])
def test_an_unfreeze_killed_before_the_swap_is_completed(
    models: Registry, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    champion, before = champions()
    wait(control.submit(MODEL, "previous", reason="test", by="ann"))
    with monkeypatch.context() as patch:
        patch.setattr(swap, "follow", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            control.unfreeze(MODEL, actor="bob", reason="false alarm")
    assert answers() == before
    if again == "unfreeze":
        control.unfreeze(MODEL, actor="bob", reason="false alarm")
    else:
        control.reconcile(MODEL, actor="bob")
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen, state.mode) == (champion, champion, False, "auto_deploy")
    assert answers() == champion


def test_an_unfreeze_whose_version_fails_under_load_leaves_the_pin(models: Registry) -> None:
    _, before = champions()
    broken = validated(3.0, code=FAILS.format(times=1))
    models.append(MODEL, "promote", version=broken, actor="test", reason="test")
    wait(control.submit(MODEL, str(before), reason="test", by="ann"))
    with pytest.raises(ModelError, match="does not last"):
        control.unfreeze(MODEL, actor="bob", reason="false alarm")
    state = models.state(MODEL)
    assert (state.champion, state.served, state.frozen, state.mode) == (before, before, True, "train_only")
    assert answers() == before
    assert control.unfreeze(MODEL, keep_version=True, actor="bob", reason="it is good").champion == before


def test_a_rollback_under_way_is_not_reconciled_away(models: Registry) -> None:
    run = control.submit(MODEL, "previous", reason="test", by="ann")
    until(lambda: control.history.begun(registry().log(MODEL)), 60)
    try:
        control.reconcile(MODEL, actor="bob")
    except (RefusedError, ConflictError) as refusal:
        assert "under way" in str(refusal)
    wait(run)
    state = models.state(MODEL)
    assert (state.mode, state.served) == ("train_only", state.champion)


def test_whoever_loads_last_has_read_the_last_entry(models: Registry) -> None:
    """Many changes of champion at once, each followed by its own writer: the server ends at the log's champion."""
    from adin.control import swap
    from adin.problem import problem

    numbers = [validated(float(n)) for n in range(4)]

    def change(number: int) -> None:
        own = registry()
        while True:
            try:
                own.promote(MODEL, number, against=own.state(MODEL).champion, actor="test", reason="race")
                break
            except ConflictError:
                continue
        swap.follow(problem(MODEL), own, ServingClient(), actor="test")

    threads = [threading.Thread(target=change, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = models.state(MODEL)
    assert answers() == state.champion == state.served


# -- Airflow --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow(world: Path, server: Server) -> dict[str, str]:
    """The environment of an Airflow without servers: a database of its own, and our connections."""
    home = world / "airflow"
    conns = variables(*map(connection, ("amversion", "s3", "kserve", "kfp")))
    environment = os.environ | conns | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment |= {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "ADIN_HOME": str(world / "nowhere")}
    for key in [key for key in environment if key.startswith("ADIN_CONN_")]:
        del environment[key]  # tasks must find all they need in Airflow's connections
    program = ROOT / ".venv" / "bin" / "airflow"
    subprocess.run([program, "db", "migrate"], env=environment, check=True, capture_output=True)
    subprocess.run([program, "dags", "reserialize"], env=environment, check=True, capture_output=True)
    return environment


def run_dag(environment: dict[str, str], dag: str, conf: dict[str, Any]) -> str:
    """Run a DAG task by task in one process, and return what it said."""
    command = [ROOT / ".venv" / "bin" / "airflow", "dags", "test", dag, "--conf", json.dumps(conf)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_dags_of_rollback_and_training_control_do_what_their_forms_say(
    models: Registry, airflow: dict[str, str]
) -> None:
    _, before = champions()
    run_dag(airflow, f"rollback__{MODEL}", {"to": "version", "version": before, "reason": "from the form"})
    state = models.state(MODEL)
    assert (state.champion, state.frozen, state.mode, answers()) == (before, True, "train_only", before)
    assert next(e for e in reversed(models.log(MODEL)) if e.event == "rollback").reason == "from the form"
    form = {"problem": MODEL, "action": "resume", "reason": "mended"}
    run_dag(airflow, "ct_control", form)
    assert models.state(MODEL).mode == "auto_deploy"
    run_dag(airflow, "ct_control", {**form, "action": "stop", "in_flight": "cancel"})
    assert models.state(MODEL).mode == "stopped"
