"""Log lines: the same fields everywhere, no secrets, for machines or for people."""

from __future__ import annotations

import json
import logging

import pytest
from adin import logs

pytestmark = pytest.mark.flow(26)


def line(message: str, *arguments: object, form: type[logging.Formatter] = logs.JsonLines, **extra: object) -> str:
    record = logging.LogRecord("adin.test", logging.WARNING, __file__, 1, message, arguments, None)
    vars(record).update(extra)
    return form("kserve").format(record)  # type: ignore[call-arg]


def test_a_line_is_one_json_object_with_the_fields_that_apply() -> None:
    found = json.loads(line("swap of %s\nwell", "bread", happened="swap", version=3, problem="bread", run="run-7"))
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "service": "kserve",
        "logger": "adin.test",
        "message": "swap of bread\nwell",
        "event": "swap",
        "problem": "bread",
        "run": "run-7",
        "version": 3,
    }
    assert "problem" not in json.loads(line("later"))


@pytest.mark.parametrize(
    ("told", "secret"),
    [
        ("postgresql://adin:hunter2@127.0.0.1/x", "hunter2"),
        ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
        ("token adin_0123456789ab_abcdefghijklmnopqrstuvwxyz was used", "abcdefghijklmnopqrstuvwxyz"),
        ("connect(password='hunter2', host='x')", "hunter2"),
        ('{"secret_key": "hunter2"}', "hunter2"),
    ],
)
@pytest.mark.parametrize("form", [logs.JsonLines, logs.Text])
def test_no_secret_gets_into_a_line_its_fields_or_its_exception(
    told: str, secret: str, form: type[logging.Formatter]
) -> None:
    try:
        raise ValueError(told)
    except ValueError as error:
        failed = (type(error), error, error.__traceback__)
    found = line("it said %s", told, form=form, run=told, exc_info=failed)
    assert secret not in found
    assert "***" in found


def test_people_get_the_same_line_as_text() -> None:
    found = line("swap", form=logs.Text, happened="swap", version=3)
    assert found.partition(" ")[2] == "WARNING adin.test swap event=swap version=3"
