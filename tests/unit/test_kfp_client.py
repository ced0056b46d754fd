"""What the KFP client makes of arguments and of runs, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from adin.connections import Connection
from adin.errors import ConfigError
from adin.pipelines.client import KfpClient, Run, Task, _portable


@pytest.mark.flow(22)
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (True, True),
        (3, 3),
        (2.5, 2.5),
        ("text", "text"),
        (None, None),
        (Decimal("1.5"), 1.5),
        (Path("/a/b"), "/a/b"),
        (datetime(2013, 1, 2, tzinfo=UTC), "2013-01-02T00:00:00+00:00"),
        ({"a": (1, {"b": [2]})}, {"a": [1, {"b": [2]}]}),
    ],
)
def test_arguments_are_sent_as_plain_json(value: object, sent: object) -> None:
    assert _portable("x", value) == sent
    assert type(_portable("x", value)) is type(sent)


@pytest.mark.flow(22)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, object(), {"a": [float("nan")]}])
def test_an_argument_that_json_cannot_carry_whole_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="Argument share"):
        _portable("share", value)


@pytest.mark.flow(22)
def test_the_first_step_that_failed_by_itself_is_blamed() -> None:
    def task(name: str, second: int, children: tuple[str, ...] = (), state: str = "FAILED") -> Task:
        return Task(name, name, state, ended=datetime(2013, 1, 1, 0, 0, second, tzinfo=UTC), children=children)

    tasks = (task("branch", 3, ("late",)), task("late", 2), task("early", 1), task("fine", 0, state="SUCCEEDED"))
    assert Run("1", "r", "FAILED", tasks=tasks).failed_step == tasks[2]
    assert Run("1", "r", "SUCCEEDED").failed_step is None


@pytest.mark.flow(22)
def test_a_kubeflow_without_a_token_is_asked_without_one() -> None:
    def headers(conn: Connection) -> dict[str, str]:
        client, found = KfpClient(conn)._client, {}
        client.update_params_for_auth(found, [], ["Bearer"])
        return found

    assert headers(Connection("kfp", "127.0.0.1", 9)) == {}
    assert headers(Connection("kfp", "127.0.0.1", 9, password="word")) == {"authorization": "Bearer word"}
