"""A dataset version into ClickHouse: ours (staged, counted, exchanged) | insert_df | the engine's own INSERT SELECT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adin import datasets
from adin.connections import connection
from adin.datasets import clickhouse as ours
from adin.datasets.lake import Lake
from adin.models import registry

from bench.measuring import median

PROBLEM, ROUNDS = "flights_delay", 5


def measure() -> list[dict[str, Any]]:
    """Return rows per second of each way, medians of five rounds."""
    champion = registry().champion(PROBLEM)
    assert champion, "run `make demo` first"
    commit, lake = champion.manifest.dataset, Lake()
    rows = sum(datasets.version(PROBLEM, commit).rows.values())
    conn = replace(connection("clickhouse"), schema="bench")
    table, source = f"bench.{PROBLEM}", ours._source(lake, commit)
    frame = _frame(commit, lake)
    with ours.clickhouse(conn) as client:
        client.command("DROP DATABASE IF EXISTS bench")
        client.command("CREATE DATABASE bench")
        datasets.load_clickhouse(PROBLEM, commit, "bench", conn=conn)
        for other in ("stock", "engine"):
            client.command(f"CREATE TABLE bench.{other} AS {table}")
        columns = ", ".join(f"`{name}`" for name in frame.columns if name not in {"split", "_commit"})
        into = f"INSERT INTO bench.engine ({columns}) SELECT {columns} FROM {source}"

        def load_ours() -> None:
            datasets.load_clickhouse(PROBLEM, commit, "bench", conn=conn)

        def load_frame() -> None:
            client.insert_df("bench.stock", _frame(commit, lake))

        def load_engine() -> None:
            client.command(into, settings={"use_hive_partitioning": 0})

        drop = f"ALTER TABLE {table} DROP PARTITION '{commit}'"
        times = {
            "ours": median(load_ours, ROUNDS, lambda: client.command(drop)),
            "stock": median(load_frame, ROUNDS, lambda: client.command("TRUNCATE TABLE bench.stock")),
            "limit": median(load_engine, ROUNDS, lambda: client.command("TRUNCATE TABLE bench.engine")),
        }
        sums = {name: _sums(client, name) for name in (PROBLEM, "stock", "engine")}
        client.command("DROP DATABASE bench")
    equal = len({str(value) for value in sums.values()}) == 1 and sums["stock"][0] == rows
    note = f"{rows:,} rows x {len(frame.columns)} columns; stock reads the files first, as it must"
    found = {name: round(rows / seconds) for name, seconds in times.items()}
    return [{"name": "clickhouse_load", "unit": "rows/s", **found, "equal": equal, "note": note}]


def _frame(commit: str, lake: Lake) -> Any:
    import pandas as pd

    splits = datasets.version(PROBLEM, commit, lake=lake).rows
    parts = [datasets.frame(PROBLEM, commit, split, lake=lake).to_pandas().assign(split=split) for split in splits]
    return pd.concat(parts).assign(_commit=commit)


def _sums(client: Any, table: str) -> tuple[Any, ...]:
    query = f"SELECT count(), sum(late_15), round(sum(schedule__distance)), sum(cityHash64(tailnum)) FROM bench.{table}"
    return tuple(client.query(query).result_rows[0])
