"""Published Parquet files as the Hive edition reads them; a folder stands for HDFS."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.errors import DataError
from adin.features import hdfs, hive, writer
from adin.features.offline import Partition
from adin.features.offline_hive import HiveStore
from adin.features.repo import View
from shop_rows import AT, forget, rows, takings

pytestmark = pytest.mark.flow(9)
DAYS = ["2013-07-01", "2013-07-02"]
FEATURES = Path(__file__).parents[2] / "shop" / "features"
Publish = Callable[..., None]


@pytest.fixture(autouse=True)
def shop() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(FEATURES))
        forget()
        yield
    forget()


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    asked: list[str] = []
    there: set[str] = set()

    def columns(table: str) -> set[str]:
        asked.append(table)
        assert len(asked) == 1, "once, not for each file"
        return there

    def made(days: dict[str, pa.Table], *, table_has: Collection[str] = (*takings().columns, "gone")) -> None:
        asked.clear()
        there.update(map(str.lower, table_has))
        for day, table in days.items():
            (tmp_path / day).mkdir()
            pq.write_table(table, tmp_path / day / "part-0.parquet")

    monkeypatch.setattr(
        hive, "partitions", lambda _: {path.name: Partition(str(path), "", 1) for path in tmp_path.iterdir()}
    )
    monkeypatch.setattr(hive, "columns", columns)
    monkeypatch.setattr(hdfs, "list_files", lambda folder: sorted(map(str, Path(folder).iterdir())))
    monkeypatch.setattr(hdfs, "read", lambda path: Path(path).read_bytes())
    return made


def read(view: View, days: list[str] = DAYS) -> list[pa.Table]:
    return list(HiveStore().rows(view, days, view.columns))


@pytest.mark.parametrize("name", ["mean", "orders", "cents", "open", "keeper", "opened_at"])
def test_a_feature_added_later_is_null_on_the_days_published_without_it(publish: Publish, name: str) -> None:
    view, later = takings(), rows(3, at=AT + timedelta(days=1))
    publish({DAYS[0]: rows(4).drop_columns([name]), DAYS[1]: later})
    first, second = read(view)
    assert first.column_names == second.column_names == view.columns
    assert first[name].null_count == 4 and second[name].equals(later[name])
    assert writer.newest(view, first).num_rows == 4
    held = writer.newest(view, pa.concat_tables([first, second], promote_options="permissive"))
    by_till = held.sort_by("till_id")[name]
    assert by_till.slice(0, 3).equals(later[name]) and by_till.slice(3).null_count == 1


def test_the_mark_of_deleted_rows_too(publish: Publish) -> None:
    view = replace(takings(), deleted="gone")
    publish({DAYS[0]: rows(4), DAYS[1]: rows(4).append_column("gone", pa.array([True] * 4))})
    first, _ = read(view)
    assert writer.newest(view, first).num_rows == 4


def test_names_are_matched_whatever_their_case(publish: Publish) -> None:
    view, published = takings(), rows(4)
    upper = published.rename_columns([name.upper() for name in published.column_names])
    publish({DAYS[0]: upper, DAYS[1]: upper.drop_columns(["MEAN"])}, table_has=upper.column_names)
    first, second = read(view)
    assert first.column_names == second.column_names == view.columns
    assert all(first[name].equals(published[name]) for name in view.columns)
    assert second["mean"].null_count == 4


@pytest.mark.parametrize("name", ["mean", "shop", "created_timestamp"])
def test_a_column_that_the_table_itself_lacks_is_an_error_and_no_null(publish: Publish, name: str) -> None:
    left = rows(4).drop_columns([name])
    publish({DAYS[0]: left}, table_has=left.column_names)
    with pytest.raises(DataError, match=rf"{takings().table} lacks the columns {name}\. .*ingest a day"):
        read(takings(), DAYS[:1])


@pytest.mark.parametrize("name", ["shop", "event_timestamp", "created_timestamp"])
def test_a_file_without_a_key_or_a_time_is_named(publish: Publish, tmp_path: Path, name: str) -> None:
    publish({DAYS[0]: rows(4).drop_columns([name])})
    with pytest.raises(DataError, match=rf"part-0.parquet lacks the columns {name}\. Ingest its day again"):
        read(takings(), DAYS[:1])


def test_a_file_that_cannot_be_read_is_named(publish: Publish, tmp_path: Path) -> None:
    publish({DAYS[0]: rows(4)})
    (tmp_path / DAYS[0] / "part-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"part-0.parquet is no readable Parquet file"):
        read(takings(), DAYS[:1])
