"""Dataset versions: built from features, frozen in lakeFS, copied to ClickHouse for exploration."""

from adin.datasets.clickhouse import load_clickhouse
from adin.datasets.clickhouse import planned as planned_clickhouse
from adin.datasets.versions import MANIFEST, DatasetVersion, build, download, find, frame, newest, version, versions

__all__ = [
    "MANIFEST",
    "DatasetVersion",
    "build",
    "download",
    "find",
    "frame",
    "load_clickhouse",
    "newest",
    "planned_clickhouse",
    "version",
    "versions",
]
