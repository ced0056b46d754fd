"""What becomes of deleted rows and of entities nobody writes any more, in the online store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from adin.features import online, repo, store
from adin.features.repo import View
from online_stores import FEATURES, cents, empty
from redis_server import RedisServer
from shop_rows import AT, by_feast, forget, rows, takings
from waiting import until

pytestmark = pytest.mark.flow(9, 11)


def deletable() -> View:
    return replace(takings(), deleted="gone")


def marked(gone: bool, *, value: int = 1, **times: Any) -> pa.Table:
    """One row, marked as deleted or not."""
    table = rows(1, **times)
    at = pa.array([times.get("at", AT)], pa.timestamp("us", "UTC"))
    table = table.set_column(table.schema.get_field_index("event_timestamp"), "event_timestamp", at)
    table = table.set_column(table.schema.get_field_index("cents"), "cents", pa.array([value], pa.int64()))
    return table.append_column("gone", pa.array([gone]))


LATER = AT + timedelta(hours=1)
ENTITY = [{"shop": "shop-0", "till_id": -5}]


def test_a_row_marked_as_deleted_takes_the_views_values_away_for_us_and_for_feast(one: RedisServer) -> None:
    store.apply("shop")
    online.write(deletable(), marked(False))
    assert cents(ENTITY) == [1]
    assert online.write(deletable(), marked(True, at=LATER)).written == 1
    _, times = online.OnlineReader(repo.service("shop", "counter")).read(ENTITY)
    assert cents(ENTITY) == [None] and np.isnat(times["takings"][0])
    (fields,) = one.content().values()
    assert set(fields) == {b"_created:takings"}
    answer = store.feature_store().get_online_features(features=["takings:cents"], entity_rows=ENTITY).to_dict()
    assert answer["cents"] == [None]


def test_a_deletion_leaves_what_other_views_have_of_the_entity(one: RedisServer) -> None:
    other = replace(deletable(), name="other")
    online.write(other, marked(False))
    before = one.content()
    online.write(deletable(), marked(False))
    online.write(deletable(), marked(True, at=LATER))
    (key,) = before
    assert {f: v for f, v in one.content()[key].items() if f != b"_created:takings"} == before[key]


def test_an_older_row_does_not_bring_a_deleted_one_back_and_a_newer_one_does(one: RedisServer) -> None:
    online.write(deletable(), marked(True, at=LATER))
    assert online.write(deletable(), marked(False)).written == 0
    assert online.write(takings(), marked(False, created=LATER)).written == 0
    assert online.write(deletable(), marked(True, at=LATER)).written == 0
    assert cents(ENTITY) == [None]
    assert online.write(deletable(), marked(False, value=7, at=LATER + timedelta(seconds=1))).written == 1
    assert cents(ENTITY) == [7]


def test_an_older_deletion_changes_nothing_and_one_that_became_known_later_counts(one: RedisServer) -> None:
    online.write(deletable(), marked(False, at=LATER))
    assert online.write(deletable(), marked(True)).written == 0
    assert cents(ENTITY) == [1]
    assert online.write(deletable(), marked(True, at=LATER, created=LATER)).written == 1
    assert cents(ENTITY) == [None]


def test_of_rows_of_one_batch_with_the_same_times_the_deleted_one_wins(one: RedisServer) -> None:
    for order in ((True, False), (False, True)):
        empty([one])
        table = pa.concat_tables([marked(each) for each in order])
        assert online.write(deletable(), table).written == 1
        assert cents(ENTITY) == [None]


def test_a_deletion_is_done_again_where_feast_wrote_an_older_row_over_it(one: RedisServer) -> None:
    store.apply("shop")
    online.write(deletable(), marked(True, at=LATER))
    by_feast(rows(1))
    assert online.write(deletable(), marked(True, at=LATER)).written == 1
    assert cents(ENTITY) == [None]


def test_an_entity_leaves_the_store_some_time_after_its_last_write(one: RedisServer) -> None:
    view = replace(takings(), online_ttl=timedelta(seconds=90))
    online.write(view, rows(3))
    online.write(replace(deletable(), online_ttl=timedelta(seconds=90)), marked(True, at=LATER))
    left = [one.ask("PTTL", key) for key in one.content()]
    assert len(left) == 3 and all(60_000 < each <= 90_000 for each in left)
    online.write(replace(view, online_ttl=timedelta(milliseconds=1)), rows(3, created=LATER))
    until(lambda: len(one.content()) == 1)  # the deleted row was newer


def test_an_entity_written_without_expiry_gets_one_by_the_next_load_and_keeps_what_it_has(one: RedisServer) -> None:
    view = replace(takings(), online_ttl=timedelta(hours=1))
    online.write(takings(), rows(3))  # killed between the row and its expiry, or written before the view had one
    assert [one.ask("PTTL", key) for key in one.content()] == [-1] * 3
    assert online.write(view, rows(3)).written == 0
    left = [one.ask("PTTL", key) for key in one.content()]
    assert all(3_500_000 < each <= 3_600_000 for each in left)
    online.write(replace(view, online_ttl=timedelta(days=9)), rows(3))
    assert all(one.ask("PTTL", key) <= 3_600_000 for key in one.content()), "a row that is the same is not kept alive"


def test_entities_that_were_to_expire_stay_once_a_view_of_them_has_no_time(one: RedisServer) -> None:
    brief, kept = replace(takings(), online_ttl=timedelta(hours=1)), replace(takings(), name="kept")
    online.write(brief, rows(3))
    assert all(one.ask("PTTL", key) > 0 for key in one.content())
    assert online.write(repo.one_ttl([brief, kept])["kept"], rows(2)).written == 2
    assert sorted(one.ask("PTTL", key) > 0 for key in one.content()) == [False, False, True]
    assert online.write(repo.one_ttl([brief, kept])["takings"], rows(3)).written == 0
    assert [one.ask("PTTL", key) for key in one.content()] == [-1] * 3


def test_views_of_one_entity_expire_together_after_the_longest_of_their_times(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for file in (FEATURES / "shop").iterdir():
        if file.is_file():
            text = file.read_text().replace(
                "ttl=timedelta(hours=6),", 'ttl=timedelta(hours=6),\n    tags={"online_ttl": "2d", "deleted": "gone"},'
            )
            (tmp_path / "shop" / file.name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(tmp_path))
        patch.setenv("ADIN_ONLINE_TTL", "3600")
        forget()
        found = repo.domain("shop")
        assert (found.view("takings").online_ttl, found.view("takings").deleted) == (timedelta(days=2), "gone")
        assert found.view("prices").online_ttl == timedelta(hours=1)
        both = [
            replace(found.view("takings"), name=name, online_ttl=ttl)
            for name, ttl in (("a", timedelta(days=1)), ("b", timedelta(days=3)))
        ]
        assert {view.online_ttl for view in repo.one_ttl(both).values()} == {timedelta(days=3)}
        both.append(replace(both[0], name="c", online_ttl=timedelta(0)))
        assert {view.online_ttl for view in repo.one_ttl(both).values()} == {timedelta(0)}
    forget()
