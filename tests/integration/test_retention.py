"""Garbage of datasets, pipeline runs and feature tables, on the servers that hold it: what goes, and what must stay."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adin import datasets
from adin.datasets import clickhouse, garbage
from adin.datasets.lake import Lake
from adin.errors import NotFoundError, RunFailedError
from adin.features import hdfs, hive, repo
from adin.features.garbage import Partitions
from adin.features.offline import Partition
from adin.models import Registry, registry
from adin.pipelines import compiled
from adin.pipelines.client import KfpClient
from adin.pipelines.garbage import Runs
from adin.settings import settings
from model_facts import files, register
from server_fixtures import of_edition, own_registry


@pytest.fixture
def models(stack: Any) -> Iterator[Registry]:
    """A registry of the test's own."""
    with own_registry(stack) as found:
        yield registry(of_edition(found, "database"), s3=found.s3)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let days pass."""

    def set_clock(days: float) -> None:
        for module in ("adin.datasets.garbage", "adin.pipelines.garbage", "adin.features.garbage"):
            monkeypatch.setattr(f"{module}._clock", lambda: datetime.now(UTC) + timedelta(days=days))

    return set_clock


@pytest.fixture
def lake() -> Lake:
    return Lake()


@pytest.fixture
def problem(lake: Lake) -> Iterator[str]:
    """A problem of the test's own, as far as lakeFS knows problems."""
    name = f"gc_{uuid4().hex[:8]}"
    lake.ensure_branch(name)
    yield name
    lake.delete_branch(name)


def commit(lake: Lake, problem: str, value: int) -> str:
    """Commit a version whose only file holds one value."""
    buffer = io.BytesIO()
    at = pa.array([datetime(2013, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"event_timestamp": at, "value": [value]}), buffer)
    content, path = buffer.getvalue(), "data/split=train/part-0.parquet"
    entry = {"path": path, "split": "train", "rows": 1, "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"problem": problem, "window": "2013-01-01/2013-01-02", "rows": {"train": 1}, "files": [entry]}
    lake.upload(problem, path, content)
    lake.upload(problem, datasets.MANIFEST, json.dumps(manifest).encode())
    return lake.commit(problem, f"Dataset {value}", {"adin_inputs": f"inputs-{value}", "adin_problem": problem})


def value(problem: str, commit: str) -> int:
    return int(datasets.frame(problem, commit, "train")["value"][0].as_py())


@pytest.mark.flow(7, 8)
def test_a_dataset_no_kept_model_came_of_gives_up_its_files_and_its_copy_in_clickhouse_but_not_its_record(
    models: Registry, lake: Lake, problem: str, tmp_path: Path, later: Any
) -> None:
    unused, used, newest = (commit(lake, problem, number) for number in range(3))
    for each in (unused, used, newest):
        datasets.load_clickhouse(problem, each, f"gc-{each[:8]}")
    register(models, problem, files(tmp_path), "run-1", dataset=used)
    versions, objects = garbage.Versions(models, lake), garbage.Files(lake)

    def found(collector: Any) -> list[str]:
        return [item.name for item in collector.garbage()]

    later(89)
    assert f"{problem}/{unused}" not in found(versions)
    later(91)
    mine = [name for name in found(versions) if name.startswith(f"{problem}/")]
    assert mine == [f"{problem}/{unused}"]
    before = set(found(objects))
    assert versions.delete([*mine, f"{problem}/{used}", f"{problem}/{newest}"]) == mine
    assert lake.expired() >= {unused}
    freed = sorted(set(found(objects)) - before)
    assert len(freed) == 1, "its data; the manifest stays"
    assert objects.delete(freed) == freed
    assert {value(problem, used), value(problem, newest)} == {1, 2}
    with clickhouse.clickhouse() as client:
        left = client.query(f"SELECT DISTINCT _commit FROM datasets.{problem}").result_rows
        client.command(f"DROP TABLE datasets.{problem}")
    assert {row[0] for row in left} == {used, newest}
    assert datasets.version(problem, unused).rows == {"train": 1}
    for read in (lambda: value(problem, unused), lambda: datasets.load_clickhouse(problem, unused, "gc-again")):
        with pytest.raises(NotFoundError, match="gave up its files"):
            read()
    assert datasets.find(problem, "inputs-0") is None, "the same request must build it again"
    assert datasets.find(problem, "inputs-1").commit == used


@pytest.mark.flow(7)
def test_what_dead_builds_and_loads_left_is_found_and_a_build_under_way_is_left_alone(
    models: Registry, lake: Lake, later: Any
) -> None:
    going, dead = (f"gc_{uuid4().hex[:8]}" for _ in range(2))
    temporary = garbage.Temporary(lake)
    hive.publish(f"{settings().temp_database}.{going}_0123", {"n": "bigint"}, {})
    for name in (going, dead):
        lake.create_branch(f"build-{name}-0123", "main")
    with clickhouse.clickhouse() as client:
        client.command("CREATE DATABASE IF NOT EXISTS datasets")
        client.command(f"CREATE TABLE datasets.stage_{dead} (n Int64) ENGINE = MergeTree ORDER BY n")

    def found() -> set[str]:
        return {item.name for item in temporary.garbage() if going in item.name or dead in item.name}

    try:
        assert found() == {f"lakefs:build-{dead}-0123"}
        later(1.1)
        everything = {
            f"offline:{settings().temp_database}.{going}_0123",
            f"clickhouse:stage_{dead}",
            f"lakefs:build-{dead}-0123",
            f"lakefs:build-{going}-0123",
        }
        assert found() == everything
        assert set(temporary.delete(sorted(everything))) == everything
        assert found() == set()
        assert not hive.exists(f"{settings().temp_database}.{going}_0123")
        assert not {f"build-{name}-0123" for name in (going, dead)} & set(lake.branches(all_of_them=True))
        assert f"stage_{dead}" not in clickhouse.staged()
    finally:
        hive.drop_table(f"{settings().temp_database}.{going}_0123")


@pytest.mark.flow(22)
def test_a_pipeline_run_no_kept_version_and_no_log_names_is_deleted_with_its_files(
    models: Registry, model: str, tmp_path: Path, later: Any
) -> None:
    client = KfpClient()
    ids = []
    for number in range(3):
        arguments = {"problem": model, "dataset": "none", "run_key": f"gc-{model}-{number}"}
        ids.append(client.submit(compiled("train_only"), arguments, name=f"gc-{model}-{number}"))
        client.terminate(ids[-1])
    for run in ids:
        with pytest.raises(RunFailedError, match="CANCELED"):
            client.wait(run, timeout=60, poll=0.2)
    named, logged, forgotten = ids
    register(models, model, files(tmp_path), "run-1", kfp_run=named)
    evidence = {"kfp_run": logged}
    models.append(model, "ct_mode", mode="train_only", actor="test", reason="rollback", evidence=evidence)
    runs = Runs(models)
    assert not set(ids) & {item.name for item in runs.garbage()}
    later(31)
    assert set(ids) & {item.name for item in runs.garbage()} == {forgotten}
    assert runs.delete(ids) == [forgotten]
    with pytest.raises(NotFoundError):
        client.get(forgotten)
    assert [client.get(run).state for run in (named, logged)] == ["CANCELED"] * 2


@pytest.mark.flow(1)
def test_a_replaced_day_of_a_feature_table_is_deleted_and_the_published_one_is_not(scratch: None, later: Any) -> None:
    domain = repo.domain(repo.domains()[0])
    table = domain.views[0].table
    hive.drop_table(table)
    places = [f"{hive.table_folder(table)}/data/run-{number}.{uuid4().hex[:6]}/day=2013-01-01" for number in range(2)]
    for place in places:
        hdfs.make(place)
        hdfs.write(f"{place}/part-0.parquet", b"rows")
        hive.publish(table, {"n": "bigint"}, {"2013-01-01": Partition(place, place, 1)})
    collector = Partitions()
    bare = [place.partition("/warehouse/")[2] for place in places]
    assert not [item for item in collector.garbage() if bare[0] in item.name]
    later(1.1)
    (item,) = [item for item in collector.garbage() if any(each in item.name for each in bare)]
    assert (item.name.endswith(bare[0]), item.bytes) == (True, 4)
    assert collector.delete([item.name, item.name.replace(bare[0], bare[1])]) == [item.name]
    assert not hdfs.exists(places[0].rpartition("/")[0]), "nor is its empty folder left"
    assert hdfs.read(f"{places[1]}/part-0.parquet") == b"rows"
