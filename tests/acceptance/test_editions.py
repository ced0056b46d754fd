"""Problem 1 in the other edition of the offline store: PostgreSQL makes the training set that Spark made."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin import datasets
from adin.features import hdfs, hive, offline_postgres, repo
from adin.features.offline import Partition, offline
from adin.models import registry
from adin.problem import problem
from adin.settings import settings
from adin.window import Window

PROBLEM = "flights_delay"
pytestmark = pytest.mark.flow(3, 6)


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process use PostgreSQL as its offline store."""
    monkeypatch.setenv("ADIN_OFFLINE_STORE", "postgres")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def columns(part: Partition) -> dict[str, str]:
    """Return the columns of a partition's files by their Hive types."""
    kinds = {arrow: hive_type for hive_type, (_, arrow) in offline_postgres._TYPES.items()}
    schema = pq.read_schema(io.BytesIO(hdfs.read(hdfs.list_files(part.location)[0])))
    return {field.name: kinds[field.type] for field in schema}


def forget(*tables: str) -> None:
    """Leave nothing of the tables in PostgreSQL."""
    for table in tables:
        offline().drop(table)
    with offline_postgres.session() as cursor:
        names = ", ".join(f"'{table}'" for table in tables)
        cursor.execute(f'DELETE FROM adin.partitions WHERE "table" IN ({names})')


def hashes(table: pa.Table) -> np.ndarray:
    """Return a number for each row, in an order of their own."""
    return np.sort(pd.util.hash_pandas_object(table.to_pandas(), index=False).to_numpy())


def test_postgresql_makes_the_training_set_of_the_champion_row_by_row(line, postgres, tmp_path: Path) -> None:
    champion = registry().champion(PROBLEM)
    spec, found = problem(PROBLEM), champion.manifest
    views = {view.table: view for view in map(repo.domain(spec.domain).view, repo.domain(spec.domain).reads)}
    made = "adin_tmp.editions"
    try:
        for table, days in found.sources.items():
            parts = {day: part for day, part in hive.partitions(table).items() if day in days}
            assert {day: part.fingerprint for day, part in parts.items()} == days
            offline().publish(views[table], columns(next(iter(parts.values()))), parts)
        result = offline().training_set(spec, Window.from_text(found.window), made, "editions")
        ours = pa.concat_tables([pq.read_table(io.BytesIO(read())) for _, read in offline().files(result)])
    finally:
        forget(*found.sources, made)
    datasets.download(PROBLEM, found.dataset, tmp_path)
    kept = pq.read_table(tmp_path / "data").select(ours.column_names)
    assert result["rows"] == datasets.version(PROBLEM, found.dataset).rows
    assert len(ours) == len(kept) > 300_000
    assert np.array_equal(hashes(ours.cast(kept.schema)), hashes(kept))
