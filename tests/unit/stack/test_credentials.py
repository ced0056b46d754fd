from __future__ import annotations

from pathlib import Path

import pytest
from adin.connections import NAMES, connection
from adin.settings import settings
from adin.stack import credentials
from adin.stack.layout import home


def test_the_credentials_of_a_home_are_made_once_and_differ_from_those_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = credentials.credentials()
    assert credentials.credentials() == first
    monkeypatch.setenv("ADIN_HOME", str(tmp_path / "other"))
    settings.cache_clear()
    second = credentials.credentials()
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    assert len(set(first.values())) == len(first)


def test_a_credential_new_to_an_old_home_leaves_the_others_alone(stack_home: Path) -> None:
    credentials.write_private(stack_home / "credentials.json", '{"redis": "kept"}')
    assert credentials.credentials()["redis"] == "kept"
    assert credentials.credentials()["postgres"]


def test_only_their_owner_can_read_the_files_with_secrets(stack_home: Path) -> None:
    credentials.write()
    for name in ("credentials.json", "secrets.env", "connections.json"):
        assert (stack_home / name).stat().st_mode & 0o777 == 0o600


def test_only_their_owner_can_enter_the_folders_with_data_and_logs(stack_home: Path) -> None:
    for folder in (home("s3", "data"), home("airflow", "logs"), home("logs")):
        top = stack_home / folder.relative_to(stack_home).parts[0]
        assert top.stat().st_mode & 0o077 == 0, top


def test_the_sdk_reads_every_connection_that_the_stack_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.write()
    made = {conn.name: conn for conn in credentials.connections()}
    assert set(made) == set(NAMES)
    made |= {conn.name: conn for conn in credentials.outside()}
    for name in made:
        monkeypatch.delenv(f"ADIN_CONN_{name.upper()}", raising=False)
        assert connection(name) == made[name]
