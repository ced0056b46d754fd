"""The command line: what a mistyped command says, and the exit codes scripts rely on."""

from __future__ import annotations

import sys

import pytest
from adin import cli
from adin.errors import ConfigError


def _run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["adin", *arguments])
    monkeypatch.setattr(cli, "app", type(cli.app)(no_args_is_help=True, add_completion=False))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("arguments", [("dataset", "list"), ("dataset", "nope"), ("stack", "up", "--nope")])
def test_wrong_usage_is_told_in_words_with_exit_code_2(monkeypatch, capsys, arguments):
    assert _run(monkeypatch, *arguments) == 2
    told = capsys.readouterr().err
    assert "Usage: adin" in told or "Error" in told
    assert "Traceback" not in told


def test_a_platform_error_is_one_line_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setenv("ADIN_CONN_AMVERSION", "not a connection")
    assert _run(monkeypatch, "model", "list") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_every_group_of_commands_explains_itself(monkeypatch, capsys):
    for group in cli._GROUPS:
        assert _run(monkeypatch, group, "--help") == 0
        assert "Usage" in capsys.readouterr().out


def test_a_training_by_hand_gets_the_form_of_its_window() -> None:
    from adin.commands.ct import training_conf

    assert training_conf("", "", force=True) == {"force": True}
    assert training_conf("", "2014-01-01", force=False) == {"force": False, "window_end": "2014-01-01T00:00:00Z"}
    whole = training_conf("2013-01-01", "2014-01-01", force=False)
    assert whole["window_start"] == "2013-01-01T00:00:00Z"
    for start, end, told in (
        ("2013-01-01", "", "Half a window"),
        ("2014-01-01", "2013-01-01", "empty"),
        ("x", "y", "no time"),
    ):
        with pytest.raises(ConfigError, match=told):
            training_conf(start, end, force=False)
