"""Registries under fault: many writers, lost replies, servers that die, and kill -9 between any two steps."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from adin import retention
from adin.connections import Connection
from adin.errors import ConflictError
from adin.models import Query, Registry, registry
from adin.models.access import Access
from adin.models.bundle import export_bundle, import_bundle
from adin.models.doctor import ensure_safe
from model_facts import facts, files, register, validated
from postgres_server import PostgresServer
from processes import at_once
from s3_proxy import s3_proxy
from servers import Servers

pytestmark = pytest.mark.flow(14, 16, 19)


@pytest.fixture
def models(edition: Connection, servers: Servers) -> Registry:
    return registry(edition, s3=servers.s3)


# --- many writers


def _promoter(n: int, barrier: Any, queue: Any, edition: Connection, s3: Connection, model: str, args: Any) -> None:
    models = registry(edition, s3=s3)
    models.models()
    barrier.wait(60)
    lost = 0
    for version in args[n]:
        while True:
            try:
                models.promote(model, version, against=models.state(model).champion, actor=f"p{n}", reason="better")
                break
            except ConflictError:
                lost += 1
    queue.put(lost)


def test_four_promoters_at_once_lose_no_update(
    models: Registry, edition: Connection, servers: Servers, model: str, tmp_path: Path
) -> None:
    artefacts = files(tmp_path)
    shares = [[validated(models, model, artefacts, f"run-{n}-{i}") for i in range(6)] for n in range(4)]
    at_once(4, _promoter, edition, servers.s3, model, shares)
    promotions = [entry for entry in models.log(model) if entry.event == "promote"]
    assert sorted(entry.version or 0 for entry in promotions) == sorted(v for share in shares for v in share)
    # each was compared with the champion that it replaced, so none overwrote one it had not seen
    champions = [None, *(entry.version for entry in promotions)]
    assert [entry.evidence["against"] for entry in promotions] == champions[:-1]
    assert models.state(model).champion == champions[-1]
    models.verify(model)
    found = models.search(Query(model, state="champion")).versions
    assert [version.number for version in found] == [champions[-1]]
    assert len(models.search(Query(model, state="retired")).versions) == 23


# --- lost replies


def test_a_store_that_loses_replies_gets_each_entry_once(
    edition: Connection, servers: Servers, model: str, tmp_path: Path
) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        models = registry(edition, s3=s3)
        ensure_safe(models.store)
        for n in range(3):
            faults.lost = 3  # artefacts, manifest or log entry
            assert validated(models, model, files(tmp_path / str(n)), f"run-{n}") == n + 1
            faults.lost = 1
            models.promote(model, n + 1, against=n or None, actor="kfp", reason="better")
        Access(models.store).grant("alice", "viewer", model, actor="root", reason="test")
        before = len(Access(models.store).log())
        faults.lost = 1
        Access(models.store).grant("bob", "viewer", model, actor="root", reason="test")
        assert len(Access(models.store).log()) == before + 1
    events = [entry.event for entry in registry(edition, s3=servers.s3).log(model)]
    assert events == ["register", "validate", "promote"] * 3
    assert registry(edition, s3=servers.s3).verify(model, files=True) == 9


# --- servers that die


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="adin-postgres-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    server = PostgresServer(folder / "data")
    yield server
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_database_that_is_killed_and_started_again_has_every_change_it_confirmed_and_each_once(
    postgres: PostgresServer, servers: Servers, model: str, tmp_path: Path
) -> None:
    models = registry(postgres.conn, s3=servers.s3)
    register(models, model, files(tmp_path), "run-1")
    confirmed: list[list[str]] = [[] for _ in range(3)]
    stop, failures = threading.Event(), []

    def write(n: int) -> None:
        mine = registry(postgres.conn, s3=servers.s3)
        for i in count():
            if stop.is_set():
                return
            try:
                mine.append(model, "alias", version=1, alias=f"a{n}-{i}", actor="w", reason="r", run_key=f"{n}-{i}")
            except Exception as error:
                failures.append(error)
                return
            confirmed[n].append(f"{n}-{i}")

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(2):
        _progress(confirmed, failures)
        postgres.kill()
        postgres.start()
    _progress(confirmed, failures)
    stop.set()
    for writer in writers:
        writer.join(60)
    assert failures == []
    written = [entry.run_key for entry in registry(postgres.conn, s3=servers.s3).log(model)[1:]]
    assert len(written) == len(set(written))
    assert set(written) == {key for done in confirmed for key in done}
    assert models.verify(model, files=True) == len(written) + 1


def _progress(confirmed: list[list[str]], failures: list[Exception]) -> None:
    """Wait until every writer has done five more."""
    marks, wait = [len(done) + 5 for done in confirmed], threading.Event()
    for _ in range(600):
        assert failures == []
        if all(len(done) >= mark for done, mark in zip(confirmed, marks, strict=True)):
            return
        wait.wait(0.1)
    raise AssertionError("no progress")


def test_a_store_that_is_unavailable_now_and_then_delays_a_rollback_but_loses_nothing(
    edition: Connection, servers: Servers, model: str, tmp_path: Path
) -> None:
    with s3_proxy(servers.s3) as (s3, faults):
        models = registry(edition, s3=s3)
        for n in range(2):
            faults.unavailable = 2
            validated(models, model, files(tmp_path / str(n)), f"run-{n}")
        for n in range(2):
            faults.unavailable = 2
            models.promote(model, n + 1, against=n or None, actor="kfp", reason="better")
        faults.unavailable = 2
        models.append(model, "rollback", version=1, mode="train_only", actor="duty", reason="bad", run_key="r")
        faults.unavailable = 2
        assert (models.state(model).champion, models.state(model).frozen) == (1, True)
        faults.unavailable = 2
        assert [v.number for v in models.search(Query(model, state="champion")).versions] == [1]
    assert registry(edition, s3=servers.s3).verify(model, files=True) == 7


# --- kill -9 between any two steps


def killed(step: int, conn: Connection, s3: Connection, work: Callable[[Registry], Any]) -> bool:
    """Do some work in a child which is killed when it calls its store for the ``step``-th time; False if it ended."""
    child = os.fork()
    if child == 0:
        try:
            models = registry(conn, s3=s3)
            steps = count()

            def counted(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **more: Any) -> Any:
                    if next(steps) == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **more)

                return call

            models._safe = True
            for place in (models.store, models.bucket):
                for name in dir(type(place)):
                    if not name.startswith("_") and callable(getattr(place, name)):
                        setattr(place, name, counted(getattr(place, name)))
            work(models)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _register(models: Registry, model: str, folder: Path) -> None:
    artefacts = {path.name: path for path in sorted(folder.iterdir())}
    number = models.register(model, facts(), artefacts, actor="kfp", run_key="run-1").number
    if models.state(model).versions[number] == "registered":
        models.append(model, "validate", version=number, actor="kfp", reason="ok", run_key="run-1")
    models.promote(model, number, against=None, actor="kfp", reason="better", run_key="run-1")


def test_a_registration_and_promotion_killed_between_any_two_steps_completes_when_run_again(
    models: Registry, edition: Connection, servers: Servers, model: str, tmp_path: Path
) -> None:
    files(tmp_path / "files")
    ensure_safe(models.store)
    for step in count():
        name = f"{model}_{step}"
        ended = not killed(step, edition, servers.s3, lambda m, name=name: _register(m, name, tmp_path / "files"))
        seen = registry(edition, s3=servers.s3)
        if name in seen.models():  # whatever is seen is whole
            seen.verify(name, files=True)
            assert len(seen.search(Query(name)).versions) == 1
        _register(seen, name, tmp_path / "files")
        assert [entry.event for entry in seen.log(name)] == ["register", "validate", "promote"]
        assert seen.verify(name, files=True) == 3
        if ended:
            break
    assert step > 8


def test_an_import_killed_between_any_two_steps_shows_all_or_nothing_and_completes_when_run_again(
    models: Registry, edition: Connection, servers: Servers, empty: Connection, model: str, tmp_path: Path
) -> None:
    names = []
    for n in range(8):
        files(tmp_path / f"{n}")
        names.append(f"{model}_{n}")
        _register(models, names[-1], tmp_path / f"{n}")
    target = registry(empty, s3=servers.s3)
    ensure_safe(target.store)
    for step in count():
        name, bundle = f"{model}_{step}", tmp_path / "bundle"
        if name not in names:
            files(tmp_path / f"{step}")
            _register(models, name, tmp_path / f"{step}")
        export_bundle(models, bundle, [name])
        ended = not killed(step, empty, servers.s3, lambda m: import_bundle(m, bundle))  # noqa: B023
        seen = registry(empty, s3=servers.s3)
        assert len(seen.log(name)) in (0, 3)
        if seen.log(name):
            seen.verify(name, files=True)
        import_bundle(seen, bundle)
        assert seen.verify(name, files=True) == 3
        if ended:
            break
    assert step > 6


def test_a_collection_killed_between_any_two_steps_deletes_nothing_wanted_and_completes_when_run_again(
    empty: Connection, servers: Servers, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adin.models.garbage._answering", lambda model: None)
    models = registry(empty, s3=servers.s3)
    _register(models, model, files(tmp_path / "kept")["notes.txt"].parent)

    def pass_days(days: float) -> None:
        for module in ("adin.models.garbage", "adin.retention.phases"):
            monkeypatch.setattr(f"{module}._clock", lambda: datetime.now(UTC) + timedelta(days=days))

    def collect(found: Registry) -> Any:
        return retention.collect(found.store, retention.registry_collectors(found))

    wanted = {key for key in models.bucket.objects("") if not key.startswith(".")}
    day = 0.0
    for step in count():
        for n in range(2):
            models.bucket.upload(f"{model}/files/{step:032}{n:032}", tmp_path / "kept" / "notes.txt")
        models.store.put_manifest(model, f"{step:064}", b"{}")
        day += 2
        pass_days(day)
        collect(models)
        day += 8
        pass_days(day)
        ended = not killed(step, empty, servers.s3, collect)
        assert models.verify(model, files=True) == 3
        day += 1
        pass_days(day)
        collect(models)
        assert {key for key in models.bucket.objects("") if not key.startswith(".")} == wanted
        assert len(models.store.manifest_times()) == 1
        if ended:
            break
    assert step > 8


def test_a_change_of_access_killed_between_any_two_steps_is_there_or_not_and_completes_when_run_again(
    empty: Connection, servers: Servers
) -> None:
    def change(models: Registry) -> None:
        access = Access(models.store)
        access.grant("alice", "viewer", "air", actor="root", reason="test")
        access.join("team:risk", "alice", actor="root", reason="test")

    ensure_safe(registry(empty, s3=servers.s3).store)
    for step in count():
        ended = not killed(step, empty, servers.s3, change)
        access = Access(registry(empty, s3=servers.s3).store)
        change(registry(empty, s3=servers.s3))
        assert [each.event for each in access.log()][-2:] in (["grant", "join"], ["leave", "join"])
        if ended:
            break
        access.leave("team:risk", "alice", actor="root", reason="again")
    assert step > 3
