"""Drift on the real engine: each planted fault is found, nothing else is, and it is over when the data is mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from adin.drift import alarms, engine, histograms, references
from adin.drift.references import ROWS
from adin.drift.tables import HISTOGRAMS, store
from adin.errors import DataError
from adin.models.objects import Bucket
from adin.problem import Drift
from drift_world import FEATURES, START, TRAINED, World, rows
from drift_world import ROWS as ROWS_A_DAY

LEARNED, BROKEN, MENDED = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def bucket(servers) -> Bucket:
    return Bucket(servers.s3, servers.bucket)


@pytest.fixture
def world(clickhouse_server) -> World:
    """A problem whose first dataset version is stored."""
    made = World(clickhouse_server.connection)
    made.store(LEARNED, rows())
    return made


def run(world: World, bucket: Bucket, commit: str, **changes) -> engine.Outcome:
    return engine.check(world.source(commit, **changes), bucket, f"test-{commit[:8]}", conn=world.connection)


def since(day: int) -> Callable[[pd.DataFrame], pd.Series]:
    first = pd.Timestamp(START + timedelta(days=day), tz="UTC")
    return lambda frame: frame["event_timestamp"] >= first


def unit_change(frame):
    return frame.assign(web__amount=frame["web__amount"].where(~since(72)(frame), frame["web__amount"] * 100))


def small_shift(frame):
    return frame.assign(web__amount=frame["web__amount"] + 8 * since(72)(frame))


def null_burst(frame):
    hit = since(74)(frame) & (frame.index % 3 == 0)
    return frame.assign(web__country=frame["web__country"].mask(hit, None))


def new_category(frame):
    hit = since(74)(frame) & (frame.index % 20 == 0)
    return frame.assign(web__country=frame["web__country"].mask(hit, "XX"))


def label_flip(frame):
    return frame.assign(late=np.where(since(74)(frame), 1 - frame["late"], frame["late"]))


def late_data(frame):
    return frame[~since(77)(frame) | (frame.index % 10 == 0)]


def twice(frame):
    return pd.concat([frame, frame[since(76)(frame) & (frame.index % 20 == 0)]])


FAULTS = {
    "unit change": (unit_change, "web__amount", {("data", "psi"), ("quality", "out_of_range")}, 72),
    "shift": (small_shift, "web__amount", {("data", "psi"), ("quality", "out_of_range")}, 72),
    "null burst": (null_burst, "web__country", {("quality", "nulls")}, 74),
    "new category": (new_category, "web__country", {("data", "psi"), ("quality", "new_values")}, 74),
    "label flip": (label_flip, "late", {("label", "label_psi")}, 74),
    "late data": (late_data, "rows", {("quality", "missing_rows")}, 77),
    "duplicates": (twice, "rows", {("quality", "duplicates")}, 76),
}


@pytest.mark.flow(15)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_in_one_run_nothing_else_is_and_it_is_over_after_repair(world, bucket, name):
    plant, subject, expected, day = FAULTS[name]
    assert run(world, bucket, LEARNED).result["alarms"] == []
    world.store(BROKEN, plant(rows()))
    found = run(world, bucket, BROKEN)
    active = alarms.active(world.problem, conn=world.connection)
    assert {each.subject for each in active} == {subject}
    assert {(each.kind, each.check) for each in active} <= expected
    assert active[0].since == START + timedelta(days=day)
    assert all(each.value > each.limit for each in active)
    assert [(each.kind, each.subject, each.check) for each in found.raised] == [
        (each.kind, each.subject, each.check) for each in active
    ]
    world.store(MENDED, rows())
    mended = run(world, bucket, MENDED)
    assert alarms.active(world.problem, conn=world.connection) == []
    assert {each.identity for each in mended.changed} == {each.identity for each in active}


@pytest.mark.flow(15)
def test_the_report_is_kept_needs_nothing_from_elsewhere_and_shows_what_changed(world, bucket):
    world.store(BROKEN, unit_change(rows()))
    found = run(world, bucket, BROKEN)
    page = engine.kept_report(bucket, world.problem, found.result["id"]).decode()
    assert f"{world.problem}: " in page
    assert "web__amount: before (grey) and after (blue)" in page
    assert 'since</th></tr><tr><td class="no">data</td><td>web__amount' in page
    assert not re.search(r"<script|https?://|src=", page)
    assert engine.result(bucket, world.problem, found.result["id"]) == found.result
    assert engine.newest(bucket, world.problem)["alarms"] == found.result["alarms"]
    assert engine.newest(bucket, "unknown") is None


@pytest.mark.flow(15)
def test_a_check_done_again_writes_nothing_and_counts_nothing_again(world, bucket):
    world.store(BROKEN, unit_change(rows()))
    first, state = run(world, bucket, BROKEN), {}
    again = []
    for _ in range(2):
        with store(world.connection) as tables:
            for table in ("drift_histograms", "drift_alarms", "drift_checks", "drift_references"):
                where = f"WHERE problem = '{world.problem}'"
                state.setdefault(table, []).append(
                    tables.rows(f"SELECT count(), sum(cityHash64(tuple(*))) FROM {tables.table(table)} {where}")
                )
            # what was counted stays good without the rows
            tables.client.command(f"TRUNCATE TABLE {tables.table(world.problem)}")
        again.append(run(world, bucket, BROKEN))
    assert all(before == after for before, after in state.values())
    assert [each.result for each in again] == [first.result] * 2
    assert first.raised and not again[0].raised and not again[0].changed


@pytest.mark.flow(15)
def test_the_counts_of_days_add_up_to_the_counts_of_the_window(world):
    with store(world.connection) as tables:
        reference, training, _ = engine.counted(tables, world.source(LEARNED), "key")
    frame = rows().query("split == 'train'")
    day = frame["event_timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[D]")
    for length in (1, 2, 5, 7, 30, 60):
        at = histograms.starts(START, START + timedelta(days=TRAINED), length)
        windows = training["web__amount"].windows(at, length)
        assert windows.sum() == len(at) * length * ROWS_A_DAY > 0
        for first, counts in zip(at, windows, strict=True):
            chosen = frame[(day >= first) & (day < first + length)]["web__amount"]
            direct, _ = np.histogram(chosen, reference.by_name["web__amount"].edges)
            assert counts.tolist() == [0, 0, *direct, 0]


@pytest.mark.flow(15)
def test_every_row_lies_in_exactly_one_bin_of_each_feature(world, bucket):
    strange = rows()
    strange.loc[strange.index % 7 == 0, "web__amount"] = np.nan
    strange.loc[strange.index % 11 == 0, "web__amount"] = np.inf
    strange.loc[strange.index % 13 == 0, "web__amount"] = -1e300
    strange.loc[strange.index % 17 == 0, "web__country"] = "it's \\ new"
    world.store(BROKEN, strange)
    with store(world.connection) as tables:
        reference, training, new = engine.counted(tables, world.source(BROKEN), "key")
    assert set(training) == {*FEATURES, "late", ROWS}
    for days in (training, new):
        assert {name: each.total.sum() for name, each in days.items()} == dict.fromkeys(days, days[ROWS].total.sum())
    fresh = strange[strange["split"] == "test"]
    amount, edges = new["web__amount"].total, reference.by_name["web__amount"].edges
    assert amount[0] == fresh["web__amount"].isna().sum()
    assert amount[1] == (fresh["web__amount"] < edges[0]).sum()
    assert amount[-1] == (fresh["web__amount"] > edges[-1]).sum()
    assert new["web__country"].total[-1] == (fresh["web__country"] == "it's \\ new").sum()


@pytest.mark.flow(15)
def test_counts_that_miss_rows_are_never_seen(world, monkeypatch):
    whole = histograms._query
    monkeypatch.setattr(histograms, "_query", lambda *given: whole(*given) + " WHERE _day < '2013-02-01'")
    with store(world.connection) as tables, pytest.raises(DataError, match="were counted"):
        engine.counted(tables, world.source(LEARNED), "key")
    with store(world.connection) as tables:
        assert tables.rows(f"SELECT count() FROM {tables.table(HISTOGRAMS)} WHERE problem = '{world.problem}'") == [
            (0,)
        ]
        assert tables.rows("SELECT count() FROM system.tables WHERE name LIKE 'stage_key%'") == [(0,)]


@pytest.mark.flow(15)
def test_the_bins_stay_those_the_model_learned_from(world, bucket):
    with store(world.connection) as tables:
        given = (tables, world.problem, LEARNED, "late", FEATURES, "key")
        frozen = references.freeze(*given)
        tables.client.command(f"TRUNCATE TABLE {tables.table(world.problem)}")
        assert references.freeze(*given) == frozen
    edges = frozen.by_name["web__amount"].edges
    learned = rows().query("split == 'train'")["web__amount"].to_numpy()
    assert np.allclose(edges, np.quantile(learned, np.arange(11) / 10), atol=0.01)


@pytest.mark.flow(15)
def test_a_rise_of_the_champions_loss_is_concept_drift(world, bucket):
    from adin.drift.concept import Losses

    def days(first: int, count: int, loss: float):
        day = np.datetime64(START) + np.arange(first, first + count)
        wobble = 1 + 0.02 * np.sin(np.arange(count))
        return {"day": day, "loss": loss * wobble * 600, "rows": np.full(count, 600.0)}

    judged, nothing = days(40, 20, 0.5), days(0, 0, 0.0)
    calm = Losses(judged, days(60, 20, 0.5), nothing, (1, 2))
    assert run(world, bucket, LEARNED, losses=calm, version=1).result["alarms"] == []
    risen = Losses(judged, days(60, 20, 0.6), nothing, (1, 3))
    found = run(world, bucket, LEARNED, losses=risen, version=1)
    assert found.result["alarms"] == [["concept", "champion", "loss"]]
    assert found.facts()["learnable"]
    [alarm] = alarms.active(world.problem, conn=world.connection)
    assert alarm.value == pytest.approx(0.2, abs=0.05)


@pytest.mark.flow(15)
def test_few_rows_or_one_bad_day_raise_nothing(world, bucket):
    def one_day(frame):
        hit = since(76)(frame) & ~since(77)(frame)
        return frame.assign(web__amount=frame["web__amount"].where(~hit, frame["web__amount"] * 100))

    world.store(BROKEN, one_day(rows()))
    assert run(world, bucket, BROKEN).result["alarms"] == []
    world.store(MENDED, unit_change(rows()))
    found = run(world, bucket, MENDED, policy=Drift(min_rows=601))
    assert [each for each in found.result["alarms"] if each[1] != "rows"] == []


@pytest.mark.flow(15)
def test_an_event_is_compared_with_as_many_days_before_it(world, bucket):
    world.store(BROKEN, small_shift(rows()))
    first, after = START + timedelta(days=72), START + timedelta(days=80)
    found = engine.between(world.source(BROKEN), first, after, "key", conn=world.connection)
    assert found["rows"] == [8 * 600, 8 * 600]
    assert found["before"] == [str(first - timedelta(days=8)), str(first)]
    assert found["features"][0]["feature"] == "web__amount"
    assert found["features"][0]["wasserstein"] == pytest.approx(0.8, abs=0.25)
    with pytest.raises(DataError, match="choose --from and --to"):
        engine.between(world.source(BROKEN), date(2020, 1, 1), date(2020, 2, 1), "key", conn=world.connection)


def test_alarms_of_broken_data_ask_for_no_training(world, bucket):
    world.store(BROKEN, null_burst(rows()))
    assert not run(world, bucket, BROKEN).facts()["learnable"]


@pytest.mark.flow(15)
def test_rows_that_are_there_again_are_counted_even_where_a_key_is_null(world):
    strange = rows()
    strange["customer"] = strange["customer"].astype("Int64").mask(strange.index % 5 == 0)
    fresh = strange[strange["split"] == "test"]
    world.store(BROKEN, pd.concat([strange, fresh.head(7)]))
    with store(world.connection) as tables:
        _, _, new = engine.counted(tables, world.source(BROKEN), "key")
    unique = len(fresh.drop_duplicates(["customer", "event_timestamp"]))
    assert new[ROWS].total.tolist() == [unique, len(fresh) + 7 - unique]
