"""What the model server watches where a problem asks for it: drift of its answers, and the challenger in the shadow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from adin.drift.tables import SERVED, store
from adin.models import registry
from adin.serving.client import ServingClient
from clickhouse_server import ClickHouseServer
from test_serving import CORNER, MODEL, Server, promote, register, until, url, world

pytestmark = [pytest.mark.ml, pytest.mark.flow(14, 26)]

__all__ = ["world"]

#: A train.py whose model answers once, when it is loaded, and no more.
FAILS = """
def _predict(self, frame):
    self.asked = getattr(self, "asked", 0) + 1
    if self.asked > 1:
        raise MemoryError("this model does not last")
    return np.zeros(len(frame))


Bill.predict = _predict
"""
WEIGHTS = [1 + n / 10 for n in range(200)]
#: What version 1 answers for them: bread costs 3, and the takings of the till are known.
ANSWERS = [3 * weight + 1 for weight in WEIGHTS]


@pytest.fixture(scope="module")
def client(world: Path, clickhouse_server: ClickHouseServer) -> Iterator[ServingClient]:
    """A server of a problem that is watched; its first version answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_CONN_CLICKHOUSE", clickhouse_server.connection.uri)
        yield from _client(world)


def _client(world: Path) -> Iterator[ServingClient]:
    path = world / "problems" / MODEL / "problem.yaml"
    asked = "serving:\n  watch: {drift: 0.25, min_rows: 100, shadow: 1.0, log: 1.0}\n"
    path.write_text(path.read_text().replace("serving:\n", asked))
    promote(register(1.0, evaluated=ANSWERS))
    server, found = Server(world / "server.log"), ServingClient()
    try:
        until(lambda: found.status(MODEL)["ready"], 60)
        yield found
    finally:
        server.kill()
        print((world / "server.log").read_text())


@pytest.fixture(scope="module")
def first(client: ServingClient) -> int:
    """Number of that version: other modules may have registered some before."""
    return int(client.status(MODEL)["version"])


def metric(name: str, **labels: str) -> float | None:
    """Return a metric of the server, None if it is not there."""
    told = ",".join(f'{key}="{value}"' for key, value in sorted({"model": MODEL, **labels}.items()))
    found = re.search(rf"^{name}{{{re.escape(told)}}} (\S+)$", httpx.get(f"{url()}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None


def ask(client: ServingClient) -> list[float]:
    answer = client.predict(MODEL, [{**CORNER, "weight": weight} for weight in WEIGHTS])
    return list(answer["predictions"])


def held_back(factor: float, code: str = "") -> int:
    number = register(factor, code)
    for event in ("validate", "challenge"):
        registry().append(MODEL, event, version=number, actor="test", reason="not clearly better")
    return number


def test_answers_like_those_of_the_evaluation_do_not_drift_and_others_do(client: ServingClient, first: int) -> None:
    client.predict(MODEL, [CORNER])
    assert metric("adin_prediction_drift", version=str(first)) is None, "too few answers say nothing"
    assert ask(client) == ANSWERS
    assert (metric("adin_prediction_drift", version=str(first)) or 9) < 0.2
    second = register(1.0, code="\n# another\n", evaluated=[answer + 50 for answer in ANSWERS])
    promote(second)
    client.load(MODEL, second)
    ask(client)
    assert (metric("adin_prediction_drift", version=str(second)) or 0) > 1
    assert metric("adin_prediction_drift", version=str(first)) is None, "it is no longer under load"


def test_the_challenger_is_asked_beside_and_nobody_gets_its_answers(client: ServingClient, first: int) -> None:
    version = str(held_back(3.0))
    client.load(MODEL, first)  # looks for the challenger anew
    assert ask(client) == ANSWERS
    until(lambda: metric("adin_shadow_difference_count", version=version) == len(WEIGHTS), 60)
    assert metric("adin_shadow_requests_total", version=version, outcome="answered") == 1
    apart = sum(2 * 3 * weight for weight in WEIGHTS)
    assert metric("adin_shadow_difference_sum", version=version) == pytest.approx(apart)
    assert metric("adin_requests_total", version=version, code="200") is None


def test_a_challenger_that_fails_fails_no_request(client: ServingClient, first: int) -> None:
    version = str(held_back(4.0, FAILS))
    client.load(MODEL, first)
    assert ask(client) == ANSWERS
    until(lambda: metric("adin_shadow_requests_total", version=version, outcome="failed") == 1, 60)


def test_answers_are_kept_with_their_keys_and_time_also_those_given_just_before_a_swap(
    client: ServingClient, first: int
) -> None:
    def kept() -> list[tuple]:
        with store() as tables:
            return tables.rows(
                f"SELECT entity, toString(event), prediction FROM {tables.table(SERVED)} "
                f"WHERE problem = '{MODEL}' AND version = {first} AND has(entity, '77') ORDER BY event"
            )

    till = {**CORNER, "till_id": 77}
    asked = [{**till, "asked_at": f"2013-07-01T1{hour}:30:00+02:00"} for hour in range(4)]
    client.load(MODEL, first)
    given = client.predict(MODEL, asked)["predictions"]
    client.load(MODEL, first)
    until(lambda: len(kept()) == len(asked), 60)
    assert [(sorted(entity), event) for entity, event, _ in kept()] == [
        (["77", "corner"], f"2013-07-01 {hour:02d}:30:00.000000") for hour in range(8, 12)
    ]
    assert [prediction for *_, prediction in kept()] == given
