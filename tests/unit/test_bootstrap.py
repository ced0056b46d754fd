"""The set-up: what is done is not done again, what was interrupted is completed, what is not pinned is not kept."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from adin.settings import ROOT

Calls = list[tuple[str, ...]]


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up of an empty project; its tools are the real ones."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("one")
    return module


@pytest.fixture
def calls(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was run; environments are really made, packages are not."""
    found: Calls = []
    really: Callable[..., None] = bootstrap.run

    def run(*command: Any, **options: Any) -> None:
        found.append(tuple(map(str, command[1:3])))
        if command[1] == "venv":
            really(*command, cwd=bootstrap.ROOT)

    monkeypatch.setattr(bootstrap, "run", run)
    return found


WHOLE = [("venv", "--quiet"), ("pip", "sync"), ("pip", "install")]


def test_an_environment_is_made_once_and_brought_up_to_date_when_its_lock_changes(
    bootstrap: ModuleType, calls: Calls, tmp_path: Path
) -> None:
    for _ in range(2):
        bootstrap.environment(".venv", "requirements.lock")
    assert calls == WHOLE
    (tmp_path / "requirements.lock").write_text("two")
    bootstrap.environment(".venv", "requirements.lock")
    assert calls == WHOLE + WHOLE[1:]


def test_an_environment_whose_making_was_interrupted_is_completed(
    bootstrap: ModuleType, calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / ".venv" / "lib").mkdir(parents=True)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /nowhere\n")
    bootstrap.environment(".venv", "requirements.lock")
    assert calls == WHOLE
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_an_environment_half_way_to_another_lock_is_not_taken_for_the_one_it_was(
    bootstrap: ModuleType, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.environment(".venv", "requirements.lock")
    (tmp_path / "requirements.lock").write_text("two")
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bootstrap.environment(".venv", "requirements.lock")
    (tmp_path / "requirements.lock").write_text("one")
    bootstrap.environment(".venv", "requirements.lock")
    assert calls == WHOLE + WHOLE[1:]


def test_a_file_that_is_not_the_pinned_one_is_not_kept(bootstrap: ModuleType, tmp_path: Path) -> None:
    found, target = tmp_path / "found", tmp_path / "cache" / "data" / "file"
    found.write_bytes(b"right")
    sha256 = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(SystemExit, match="not the pinned file"):
        bootstrap.keep(found, target, "0" * 64)
    assert not target.parent.exists()
    bootstrap.keep(found, target, sha256)
    assert bootstrap.verified(target, sha256)
    target.write_bytes(b"spoilt")
    assert not bootstrap.verified(target, sha256)


def test_data_that_is_there_is_not_fetched_again(
    bootstrap: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"package": "p==1", "file": "p.tar.gz", "sha256": hashlib.sha256(b"right").hexdigest()}
    monkeypatch.setattr(bootstrap, "ARTIFACTS", {"data": [item]})
    folder = bootstrap.CACHE / "data"
    folder.mkdir(parents=True)
    (folder / "p.tar.gz").write_bytes(b"right")
    bootstrap.data()
    assert calls == []
    (folder / "p.tar.gz").write_bytes(b"cut o")
    with pytest.raises(SystemExit, match="not the pinned file"):  # what was fetched here is nothing
        bootstrap.data()
    assert calls == [("-m", "pip")]


def test_what_another_process_is_just_fetching_is_waited_for(
    bootstrap: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"package": "p==1", "file": "p.tar.gz", "sha256": hashlib.sha256(b"right").hexdigest()}
    monkeypatch.setattr(bootstrap, "ARTIFACTS", {"data": [item]})
    waiting = threading.Thread(target=bootstrap.data)
    with bootstrap.alone("data"):
        waiting.start()
        waiting.join(0.2)
        (bootstrap.CACHE / "data").mkdir()
        (bootstrap.CACHE / "data" / "p.tar.gz").write_bytes(b"right")
    waiting.join(30)
    assert calls == []


def test_classes_are_kept_once_for_a_java_that_takes_them(
    bootstrap: ModuleType, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "include" / "spark").mkdir(parents=True)
    (tmp_path / "include" / "spark" / "classes.py").write_text("one")
    program, archive = tmp_path / "java", tmp_path / "build" / "spark.jsa"
    monkeypatch.setattr(bootstrap, "java", lambda: program)

    def upgrade(version: str) -> None:
        program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        program.chmod(0o755)

    upgrade("17.0.1")
    for _ in range(2):
        bootstrap.spark_classes()
    assert len(calls) == 1
    archive.write_text("of Java 17")
    upgrade("21.0.8")
    bootstrap.spark_classes()
    assert len(calls) == 1
    assert not archive.exists(), "it would be of another Java"


@pytest.mark.parametrize(("said", "good"), [("openjdk version 17.0.1", True), ("java version 1.8.0_292", False)])
def test_a_program_that_is_too_old_counts_as_missing(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, good: bool
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "java"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert bootstrap.on_path("java", "-version", oldest=(17,)) == (program if good else None)
