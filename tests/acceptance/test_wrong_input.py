"""Raw data that is missing, corrupt or of another schema, through the scheduler: told, harmless, mended by a re-run."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
from adin.errors import RunFailedError
from adin.features import hdfs, hive, repo

DAG, RUN = "features__flights", "acceptance-wrong-input"
DAY = {"window_start": "2013-06-15T00:00:00Z", "window_end": "2013-06-16T00:00:00Z", "wait_minutes": 0}


@pytest.fixture
def folder(line) -> Iterator[str]:
    """The raw arrivals of one day; whatever a test does to them is undone."""
    found = repo.domain("flights").folder("arrivals", "2013-06-15")
    kept = {path: hdfs.read(path) for path in hdfs.list_files(found)}
    yield found
    for path, content in kept.items():
        hdfs.write(path, content)


@pytest.mark.flow(1, 2, 9)
def test_wrong_raw_data_is_named_changes_nothing_and_a_later_run_of_the_same_tasks_completes(folder, airflow):
    tables = [view.table for view in repo.domain("flights").views]
    before = {table: hive.partitions(table) for table in tables}
    raw = next(path for path in hdfs.list_files(folder) if path.endswith(".parquet"))
    right, landed = hdfs.read(raw), f"{folder}/_SUCCESS"

    def fails(task: str) -> str:
        """Run, or run again what failed, and return the log of the task that must have failed."""
        airflow.start(DAG, RUN, DAY)
        with pytest.raises(RunFailedError, match=task):
            airflow.wait(DAG, RUN, timeout=900, progress=print)
        assert {table: hive.partitions(table) for table in tables} == before
        tried = {each["task_id"]: each["try_number"] for each in airflow.tasks(DAG, RUN)}
        return airflow.log(DAG, RUN, task, tried[task])

    hdfs.delete(landed)
    assert folder in fails("wait_raw")
    hdfs.write(landed, b"")

    hdfs.write(raw, b"PAR1 and then nothing")
    told = fails("ingest.outcomes")
    assert raw in told
    assert "cannot be read as Parquet" in told

    renamed = pq.read_table(io.BytesIO(right))
    renamed = renamed.rename_columns(["leaving" if name == "arr_delay" else name for name in renamed.column_names])
    changed = io.BytesIO()
    pq.write_table(renamed, changed)
    hdfs.write(raw, changed.getvalue())
    assert "arr_delay" in fails("ingest.outcomes")

    hdfs.write(raw, right)
    airflow.start(DAG, RUN, DAY)
    airflow.wait(DAG, RUN, timeout=900, progress=print)
    assert {table: hive.partitions(table) for table in tables} == before
