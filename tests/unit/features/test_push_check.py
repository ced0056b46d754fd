"""What is judged of a pushed row: every type, in JSON, CSV and Arrow."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from adin.errors import BusyError, OverloadError
from adin.features import repo
from adin.features.push import body, check
from adin.features.push.limits import Gate, Rate
from adin.settings import settings

pytestmark = pytest.mark.flow(11)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "shop": "a", "till_id": 1, "amount": 1.5, "mean": 2, "orders": 3, "cents": 2**62, "open": True, "keeper": "نان",
    "opened_at": "2013-07-01T09:30:00+03:30", "event_timestamp": "2013-07-01T12:00:00.123456789Z",
}  # fmt: skip


@pytest.fixture(autouse=True)
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(Path(__file__).parents[2] / "shop" / "features"))
    settings.cache_clear()
    repo.read_anew()
    yield
    monkeypatch.undo()
    settings.cache_clear()
    repo.read_anew()


def judged(*rows: Any, text: bytes = b"", table: pa.Table | None = None) -> check.Checked:
    target = check.targets()["takings"]
    if table is not None:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return check.check(target, body.read(body.ARROW, sink.getvalue()), NOW)
    if text:
        return check.check(target, body.read(body.CSV, text), NOW)
    return check.check(target, body.read(body.JSON, json.dumps(rows).encode()), NOW)


def test_a_row_of_every_type_passes_with_the_values_it_had() -> None:
    found = judged(GOOD, {name: None if name in dict(_features()) else value for name, value in GOOD.items()})
    assert found.refusals == []
    first, second = found.good.to_pylist()
    assert first | {"opened_at": None, "event_timestamp": None, "created_timestamp": None} == GOOD | {
        "opened_at": None,
        "event_timestamp": None,
        "created_timestamp": None,
    }
    assert first["opened_at"] == datetime(2013, 7, 1, 6, tzinfo=UTC)
    assert first["event_timestamp"] == datetime(2013, 7, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert first["created_timestamp"] == NOW
    assert {second[name] for name, _ in _features()} == {None}


def _features() -> tuple[tuple[str, str], ...]:
    return repo.domain("shop").view("takings").features


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", "1"), ("amount", False), ("amount", [1]), ("mean", 1e300), ("mean", {}), ("orders", 2**31),
        ("orders", 1.5), ("orders", "1"), ("cents", 2**63), ("cents", True), ("open", 1), ("open", "true"),
        ("keeper", 5), ("keeper", "\ud800"), ("opened_at", 1372672800), ("opened_at", "yesterday"),
        ("opened_at", "2013-07-01"), ("till_id", "1"), ("shop", 1), ("event_timestamp", "2013-02-30T00:00Z"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_and_its_neighbours_are_not(field: str, value: Any) -> None:
    found = judged(*[GOOD] * 5, GOOD | {field: value}, *[GOOD] * 6)
    assert [(each.row, each.field) for each in found.refusals] == [(5, field)]
    assert found.places.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert found.good.num_rows == 11


def test_all_that_is_wrong_with_a_row_is_told_one_reason_a_field() -> None:
    found = judged({"till_id": "x", "wind": 1, "orders": None}, 5, GOOD)
    fields = [(each.row, each.field) for each in found.refusals]
    wrong = ["amount", "cents", "event_timestamp", "keeper", "mean", "open", "opened_at", "shop", "till_id", "wind"]
    assert fields == [*((0, name) for name in wrong), (1, "")]


def test_csv_is_read_by_the_views_types() -> None:
    names = ",".join(GOOD)
    lines = [f"{n},{n},1e3,,{n},5,true,0012,2013-07-01T12:00Z,2013-07-01T12:00Z" for n in range(3)]
    found = judged(text="\n".join([names, *lines, lines[0].replace("1e3", "much")]).encode())
    assert [(each.row, each.field, each.reason) for each in found.refusals] == [(3, "amount", "much is not a number")]
    first = found.good.to_pylist()[0]
    assert (first["shop"], first["keeper"], first["amount"], first["mean"], first["open"]) == (
        "0",
        "0012",
        1000,
        None,
        True,
    )


def test_an_arrow_column_of_another_family_is_refused_as_a_whole_and_a_narrower_one_is_taken() -> None:
    table = pa.Table.from_pylist([GOOD] * 2).set_column(0, "shop", pa.array([1, 2]))
    times = pa.array([datetime(2013, 7, 1)] * 2, pa.timestamp("us"))
    for name in ("opened_at", "event_timestamp"):
        table = table.set_column(table.schema.get_field_index(name), name, times)
    found = judged(table=table.set_column(4, "orders", pa.array([3, 4], pa.int8())))
    assert {each.field for each in found.refusals} == {"shop", "opened_at", "event_timestamp"}
    assert len(found.refusals) == 6


def test_a_rate_lets_a_burst_pass_then_makes_wait_as_long_as_the_debt_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("adin.features.push.limits.time.monotonic", lambda: now)
    rate = Rate("rows", 10)
    rate.check("a")
    rate.use("a", 150)
    with pytest.raises(BusyError) as busy:
        rate.check("a")
    assert busy.value.after == 5
    rate.check("b")
    now += 5.1
    rate.check("a")


def test_a_gate_turns_away_who_does_not_fit_in_and_lets_in_who_comes_after() -> None:
    gate = Gate(1)
    with gate.entered(), pytest.raises(OverloadError), gate.entered():
        pass
    with gate.entered():
        pass
