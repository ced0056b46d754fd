"""Dataset versions: built from features, frozen in lakeFS, copied to ClickHouse for exploration."""

from adin.datasets.clickhouse import load_clickhouse
from adin.datasets.clickhouse import planned as planned_clickhouse
from adin.datasets.versions import (
    MANIFEST,
    DatasetVersion,
    branch_of,
    build,
    download,
    drop_branch,
    find,
    frame,
    in_production,
    newest,
    version,
    versions,
)

__all__ = [
    "MANIFEST",
    "DatasetVersion",
    "branch_of",
    "build",
    "download",
    "drop_branch",
    "find",
    "frame",
    "in_production",
    "load_clickhouse",
    "newest",
    "planned_clickhouse",
    "version",
    "versions",
]
