"""Raw partitions in HDFS: which of a window are there."""

from __future__ import annotations

from adin.features import hdfs, repo
from adin.window import Window


def missing(domain: str, window: Window) -> list[str]:
    """Return the HDFS folders of the window's days that are not loaded yet; static tables are never missing."""
    found = repo.domain(domain)
    folders: list[str] = []
    for table, spec in found.raw.items():
        if spec.static:
            continue
        files = set(hdfs.list_files(found.table_folder(table)))
        folders += [
            found.folder(table, day) for day in window.days if f"{found.folder(table, day)}/_SUCCESS" not in files
        ]
    return folders
