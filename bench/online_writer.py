"""Rows a second into Redis: ours | Feast's local engine | the same commands encoded beforehand, on one connection."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from adin.connections import Connection
from adin.features import shards, writer
from adin.settings import settings

from bench import online_project as project
from bench.measuring import redis

ROUNDS = 3


def measure() -> list[dict[str, Any]]:
    """Return rows a second of Feast's materialization with either engine, and of a table in memory by either writer."""
    table = project.rows()
    with tempfile.TemporaryDirectory() as folder, redis(Path(folder), kept=False) as conn:
        sides = {name: project.Project(Path(folder) / name, conn, name) for name in ("ours", "local", "spark")}
        for side in sides.values():
            side.put(table)
        stream = _encoded(table)
        ways = {
            "ours": sides["ours"].materialize,
            "stock": sides["local"].materialize,
            "stock_spark": sides["spark"].materialize,
            "ours_table": lambda: _write(table, conn),
            "stock_table": lambda: _feast(sides["local"].feast, table),
            "limit": lambda: _send(stream, conn),
        }
        written = {}
        for name, way in ways.items():
            project.ask(conn, b"FLUSHALL")
            way()
            written[name] = project.content(conn)
        assert all(each == written["stock"] for each in written.values()), "the stores differ"
        assert written["stock"][0] == project.ROWS
        spent: dict[str, list[float]] = {name: [] for name in [*ways, "again"]}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                project.ask(conn, b"FLUSHALL")
                spent[name].append(project.seconds(way))
                if name == "ours_table":  # all rows are as they were
                    spent["again"].append(project.seconds(way))
    rate = {name: round(project.ROWS / statistics.median(each)) for name, each in spent.items()}
    note = f"{project.ROWS:,} rows x {len(project.NAMES)} features"
    shown = [
        ("online_writer", rate["ours"], rate["stock"], f"{note}; FeatureStore.materialize from a Parquet file"),
        ("online_writer_spark", rate["ours"], rate["stock_spark"], f"{note}; the stock tool is Feast's Spark engine"),
        ("online_writer_table", rate["ours_table"], rate["stock_table"], f"{note}; a table in memory"),
        ("online_writer_unchanged", rate["again"], None, f"{note}; all as they are in the store"),
    ]
    same = {"unit": "rows/s", "limit": rate["limit"], "equal": True}
    return [{"name": name, "ours": ours, "stock": stock, "note": told, **same} for name, ours, stock, told in shown]


def _write(table: Any, conn: Connection) -> None:
    writer.write(project.VIEW, table, conn=conn)


def _feast(feast: Any, table: Any) -> None:
    """Write as Feast's local engine does once it has the rows."""
    from feast.utils import _convert_arrow_to_proto

    view = feast.get_feature_view("bench")
    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    store = feast._get_provider().online_store
    store.online_write_batch(feast.config, view, _convert_arrow_to_proto(table, view, types), None)


def _encoded(table: Any) -> list[tuple[Any, Any]]:
    """Return the batches our writer sends for new keys."""
    rows = writer._rows(project.VIEW, table)
    size, found = settings().online_batch, []
    for start in range(0, len(rows.event), size):
        batch = rows.take(range(start, min(start + size, len(rows.event))))
        found.append((batch.keys, next(writer._put(project.VIEW, batch))))
    return found


def _send(stream: list[tuple[Any, Any]], conn: Connection) -> None:
    with shards.borrowed(conn) as session:
        for keys, commands in stream:
            session.exchange(keys, [commands])
