"""Connections and settings, as read from the environment and the secrets file."""

import pytest
from adin.connections import NAMES, Connection, connection
from adin.errors import ConfigError
from adin.settings import Settings, settings


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("ADIN_HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(f"ADIN_CONN_{name.upper()}", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.parametrize(
    "conn",
    [
        Connection("spark", "local[2]", extra={"namenode": "hdfs://127.0.0.1:8020", "conf": {"a": "b=c&d"}}),
        Connection("lakefs", "127.0.0.1", 8000, "key", "s/e:c@r%t?", "adin"),
        Connection("spark", "spark://host:7077"),
        Connection("feast", "127.0.0.1", 6379, password="p", extra={"registry": "postgresql+psycopg://u:p@h:1/feast"}),
    ],
)
def test_a_connection_survives_being_written_as_a_uri(conn):
    assert Connection.from_uri(conn.name, conn.uri) == conn


def test_a_secret_is_never_shown_when_a_connection_is_printed():
    conn = Connection("feast", "h", 1, password="hidden-1", extra={"registry": "hidden-2"})
    assert "hidden" not in repr(conn)


def test_the_secrets_file_is_used_and_the_environment_wins(monkeypatch, tmp_path):
    (tmp_path / "secrets.env").write_text(f"# made by the stack\nADIN_CONN_KFP={Connection('kfp', 'file', 1).uri}\n")
    assert connection("kfp").host == "file"
    monkeypatch.setenv("ADIN_CONN_KFP", Connection("kfp", "environment", 1).uri)
    assert connection("kfp").host == "environment"


def test_a_missing_connection_is_named_with_its_key():
    with pytest.raises(ConfigError, match="ADIN_CONN_LAKEFS"):
        connection("lakefs")


def test_a_wrong_setting_fails_at_start_with_its_key(monkeypatch):
    monkeypatch.setenv("ADIN_PORT_BASE", "eighty")
    with pytest.raises(ConfigError, match="ADIN_PORT_BASE"):
        settings()


def test_every_setting_says_what_it_is():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
