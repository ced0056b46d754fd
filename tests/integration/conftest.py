"""What integration tests share: the running stack, and a feature repository and problems of their own."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin.features import hdfs, hive, repo
from adin.features.offline import Partition, offline
from adin.settings import settings

SCRATCH = Path(__file__).parent / "scratch"


@pytest.fixture(scope="module")
def scratch():
    """Point settings, here and in Spark jobs, at the tests' own feature repository and problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(SCRATCH / "feature_repo"))
        patch.setenv("ADIN_PROBLEMS", str(SCRATCH / "problems"))
        patch.setenv("ADIN_RAW_ROOT", f"/raw-{uuid4().hex[:8]}")
        settings.cache_clear()
        repo.read_anew()
        yield
        hdfs.delete(settings().raw_root)
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture(scope="module")
def write_features():
    """Return a function that replaces a feature table, of the edition in force, by given rows; all go at the end."""
    made = {}

    def write(view: repo.View, schema: pa.Schema, rows: list[dict], kinds: dict[str, str]) -> None:
        days = defaultdict(list)
        for row in rows:
            days[f"{row['event_timestamp']:%Y-%m-%d}"].append(row)
        run = f"{hive.table_folder(view.table)}/data/{uuid4().hex}"
        staged = {}
        for day, found in days.items():
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(found, schema=schema), buffer)
            hdfs.make(f"{run}/day={day}")
            hdfs.write(f"{run}/day={day}/part-0.parquet", buffer.getvalue())
            staged[day] = Partition(f"{run}/day={day}", uuid4().hex, len(found), "test")
        if settings().offline_store == "hive":
            hive.drop_table(view.table)
        offline().publish(view, kinds, staged)
        made[settings().offline_store, view.table] = offline()

    yield write
    for (_, table), store in made.items():
        store.drop(table)
        hdfs.delete(hive.table_folder(table))
