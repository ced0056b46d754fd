"""Rows that users push, kept as raw data too, so that a view's table holds them and training sees them.

The push API lands them in HDFS beside the domain's raw tables, by the days of their events; the next ingest of a day
takes them in.
"""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adin.errors import DataError
from adin.features import hdfs, repo


def table(view: str) -> str:
    """Return the name of the raw table of a view's pushed rows."""
    return f"pushed__{view}"


def files(domain: repo.Domain, view: str, day: object) -> list[str]:
    """Return the files of a day; one that is being written is none of them."""
    found = hdfs.list_files(domain.folder(table(view), day))
    return [path for path in found if not path.rpartition("/")[2].startswith("_")]


def land(domain: repo.Domain, view: repo.View, rows: pa.Table) -> None:
    """Write rows below their days, a file each; the same rows once more change nothing.

    :param rows: keys, features and times of the view, as the push API has judged them.
    :raises DataError: they were accepted when the view had other columns.
    :raises ServiceError: HDFS does not answer.
    """
    if missing := [name for name in (*view.keys, view.event, view.created) if name not in rows.column_names]:
        raise DataError(f"Rows of {view.name} lack {', '.join(missing)}, which the view has now.")
    days = pc.strftime(rows[view.event], "%Y-%m-%d")
    for day in pc.unique(days).to_pylist():
        buffer = io.BytesIO()
        pq.write_table(rows.filter(pc.equal(days, day)), buffer)
        content, folder = buffer.getvalue(), domain.folder(table(view.name), day)
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
        hdfs.make(folder)
        hdfs.write(f"{folder}/_{name}", content)
        if hdfs.exists(f"{folder}/{name}"):
            hdfs.delete(f"{folder}/_{name}")
        else:
            hdfs.rename(f"{folder}/_{name}", f"{folder}/{name}")
