"""Frames brought to the driver: by Arrow from their files where they are nothing else, else by Spark; the same rows."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa
import pytest
from adin.connections import connection
from adin.features import hdfs
from adin.features.scan import collect
from offline import session
from pyspark.sql import functions as F

pytestmark = pytest.mark.flow(2, 3)
SCHEMA = "name string, number int, share float, at timestamp, day string"
NIGHT = datetime(2021, 3, 1, 23, 59, 59, 123456, tzinfo=UTC)
ROWS = [
    (
        None if n % 7 == 0 else f"n{n}",
        n,
        None if n % 5 == 0 else n / 3,
        NIGHT.replace(minute=n),
        f"2021-03-0{1 + n % 3}",
    )
    for n in range(40)
]


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    found = session(tmp_path_factory.mktemp("spark"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def folder(spark):
    path = f"{connection('spark').extra['namenode']}/scan-{uuid4().hex[:8]}"
    spark.createDataFrame(ROWS, SCHEMA).write.partitionBy("day").option("path", path).saveAsTable("scanned")
    yield path
    spark.sql("DROP TABLE scanned")
    hdfs.delete(path)


@pytest.fixture
def table(spark, folder):
    return spark.table("scanned")


def with_jobs(spark, work):
    """Return what some work returns, and the jobs it had Spark run."""
    group = uuid4().hex
    spark.sparkContext.setJobGroup(group, group)
    return work(), list(spark.sparkContext.statusTracker().getJobIdsForGroup(group))


def sorted_rows(table: pa.Table):
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def test_columns_of_some_days_are_read_without_spark(spark, table):
    frame = table.where("day >= '2021-03-02'").select("at", "share", "name")
    found, jobs = with_jobs(spark, lambda: collect(frame))
    assert jobs == []
    assert found.schema.types == [pa.timestamp("us", "UTC"), pa.float32(), pa.string()]
    assert len(found) == sum(day >= "2021-03-02" for *_, day in ROWS)
    assert sorted_rows(found) == sorted_rows(frame.toArrow().cast(found.schema))


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.where("number > 3"),
        lambda frame: frame.withColumn("number", F.col("number") + 1),
        lambda frame: frame.select(F.col("number").alias("share"), F.col("share").alias("number")),
        lambda frame: frame.limit(3),
        lambda frame: frame.union(frame),
        lambda frame: frame.select("day", "number"),
        lambda frame: frame.where("day > '2021-03-01' AND number > 3").drop("day"),
        lambda frame: frame.sparkSession.sql("SELECT number, name FROM few"),
        lambda frame: frame.where("rand(7) < 0.5").drop("day"),
        lambda frame: frame.where("day = (SELECT max(day) FROM scanned)").drop("day"),
    ],
    ids=[
        "rows chosen",
        "worked out",
        "renamed",
        "limited",
        "twice",
        "day itself",
        "day and rows chosen",
        "a view",
        "by chance",
        "the newest day",
    ],
)
def test_a_frame_that_is_more_than_its_files_is_left_to_spark(spark, table, change):
    table.where("number < 9").createOrReplaceTempView("few")
    frame = change(table.drop("at"))
    found, jobs = with_jobs(spark, lambda: collect(frame))
    assert jobs
    assert sorted_rows(found) == sorted_rows(frame.toArrow())


def test_a_path_whose_days_are_chosen_is_left_to_spark(spark, folder):
    frame = spark.read.schema(SCHEMA).parquet(folder).where("day = '2021-03-02'").select("number")
    assert sorted_rows(collect(frame)) == sorted(((n,) for _, n, _, _, day in ROWS if day == "2021-03-02"), key=repr)


def test_a_file_of_before_a_column_was_added_gives_nulls(spark, folder):
    frame = spark.read.schema(f"{SCHEMA}, added double").parquet(folder).select("number", "added")
    assert sorted_rows(collect(frame)) == sorted(((n, None) for _, n, *_ in ROWS), key=repr)


def test_no_file_at_all_is_no_row(table):
    frame = table.where("day > '2022'").select("name", "at")
    assert collect(frame).to_pydict() == {"name": [], "at": []}
