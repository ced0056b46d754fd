"""Drift of 1,000,000 x 8 new rows: ours, counted in the engine | Evidently's PSI report | a bare scan.

All look at the same rows. That the PSI is the same is checked first, on the bins of Evidently. The reference is a
million rows too: ours is counted once a model, so its time is told apart; Evidently reads it in each report.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from adin.commands import output
from adin.connections import Connection, connection
from adin.datasets.clickhouse import clickhouse
from adin.drift import engine, histograms, references
from adin.drift import statistics as drift
from adin.drift.references import Feature, Reference
from adin.drift.tables import HISTOGRAMS, Store, store
from adin.problem import Drift
from adin.settings import ROOT

from bench.measuring import median

ROWS, DAYS, ROUNDS, STOCK_ROUNDS = 1_000_000, 30, 5, 2
#: The newest Evidently; it does not run with pandas 3.1.
EVIDENTLY = ("evidently==0.7.23", "pandas==2.3.3", "pyarrow")
NUMBERS, CATEGORIES = [f"v__{n}" for n in range(6)], ["v__kind", "v__place"]
LEARNED, NEW = "a" * 40, "b" * 40


def measure() -> list[dict[str, Any]]:
    """Return seconds of each way, medians, after the same PSI came out of both."""
    conn = replace(connection("clickhouse"), schema="bench_drift")
    samples = {"reference": _rows(1, 0), "current": _rows(2, 0.1)}
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in samples.items():
            frame[NUMBERS + CATEGORIES].to_parquet(Path(folder) / f"{name}.parquet")
        output.step("bench drift: Evidently")
        stock = _evidently(folder)
    with clickhouse(conn) as client:
        client.command("DROP DATABASE IF EXISTS bench_drift")
        client.command("CREATE DATABASE bench_drift")
    try:
        _load(conn, samples)
        output.step("bench drift: ours")
        with store(conn) as tables:
            same = _same(tables, samples, stock["psi"])
            once, ours = _ours(tables)
            sums = ", ".join(f"sum({name})" for name in NUMBERS) + "".join(f", uniq({name})" for name in CATEGORIES)
            scan = f"SELECT {sums} FROM {tables.table('bench')} WHERE _commit = '{NEW}'"
            limit = median(lambda: tables.rows(scan), ROUNDS)
    finally:
        with clickhouse(conn) as client:
            client.command("DROP DATABASE bench_drift")
    note = (
        f"{ROWS:,} rows x {len(NUMBERS + CATEGORIES)} columns in {DAYS} days against as many; bins and counts of the "
        f"reference, once a model: {once:.2f} s; largest difference of PSI {same:.1e}"
    )
    found = {"ours": round(ours, 3), "stock": round(stock["seconds"], 2), "limit": round(limit, 3)}
    return [{"name": "drift", "unit": "s", **found, "equal": same <= 1e-6, "note": note}]


def _rows(seed: int, shift: float) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    # bounded, so that no bin is empty: what stands for an empty one is a matter of taste
    made = {name: draw.beta(2 + shift * n, 2, ROWS) * 100 for n, name in enumerate(NUMBERS)}
    made["v__kind"] = draw.choice(["a", "b", "c", "d", "e"], ROWS, p=np.array([4, 3, 2, 1 + shift, 1]) / (11 + shift))
    made["v__place"] = draw.choice([f"p{n:02}" for n in range(20)], ROWS)
    day = np.sort(draw.integers(0, DAYS, ROWS)) + (DAYS if shift else 0)
    at = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(day, "D")
    split = "test" if shift else "train"
    return pd.DataFrame(made).assign(
        customer=np.arange(ROWS), event_timestamp=at, late=(draw.random(ROWS) < 0.2).astype("int32"), split=split
    )


def _load(conn: Connection, samples: dict[str, pd.DataFrame]) -> None:
    numbers = ", ".join(f"{name} Nullable(Float64)" for name in NUMBERS)
    texts = ", ".join(f"{name} Nullable(String)" for name in CATEGORIES)
    with clickhouse(conn) as client:
        client.command(
            f"CREATE TABLE bench_drift.bench ({numbers}, {texts}, customer Nullable(Int64), "
            "event_timestamp Nullable(DateTime64(6, 'UTC')), late Nullable(Int32), split LowCardinality(String), "
            "_commit String) ENGINE = MergeTree PARTITION BY _commit ORDER BY (split, event_timestamp) "
            "SETTINGS allow_nullable_key = 1"
        )
        for name, commit in (("reference", LEARNED), ("current", NEW)):
            client.insert_df("bench_drift.bench", samples[name].assign(_commit=commit))


def _ours(tables: Store) -> tuple[float, float]:
    """Return the seconds of the reference, and the median of those of a new dataset version."""
    features = tuple(NUMBERS + CATEGORIES)
    made = {"problem": "bench", "learned": LEARNED, "label": "late", "features": features, "policy": Drift()}
    first = engine.Source(commit=LEARNED, until=date(2013, 3, 1), **made)  # type: ignore[arg-type]
    began = time.perf_counter()
    engine.counted(tables, first, "bench-reference")
    once = time.perf_counter() - began
    source = engine.Source(commit=NEW, until=date(2013, 3, 1), **made)  # type: ignore[arg-type]

    def work() -> None:
        reference, training, new = engine.counted(tables, source, "bench")
        assert engine.checks.compared(reference, training, new)

    def forget() -> None:
        reference = references.reference_id(LEARNED, "late", features)
        tables.client.command(
            f"ALTER TABLE {tables.table(HISTOGRAMS)} DROP PARTITION ('bench', '{reference}', 'new', '{NEW}')"
        )

    work()  # the partition is there to be dropped
    return once, median(work, ROUNDS, forget)


def _same(tables: Store, samples: dict[str, pd.DataFrame], stock: dict[str, float]) -> float:
    """Return the largest difference between Evidently's PSI and ours on its bins."""
    assert set(stock) == {*NUMBERS, *CATEGORIES}, f"Evidently told of {sorted(stock)}"
    features = []
    for name in NUMBERS:
        both = np.concatenate([samples[side][name] for side in ("reference", "current")])
        features.append(Feature(name, edges=tuple(np.histogram_bin_edges(both, bins="sturges").tolist())))
    for name in CATEGORIES:
        values = tuple(sorted(samples["reference"][name].unique()))
        features.append(Feature(name, values=values, known=values))
    reference = Reference("bench", "evidently", LEARNED, "late", (), date(2013, 1, 30), ROWS, tuple(features))
    histograms.fill(tables, reference, "training", LEARNED, "bench-same")
    histograms.fill(tables, reference, "new", NEW, "bench-same")
    before = histograms.read(tables, reference, "training", LEARNED)
    after = histograms.read(tables, reference, "new", NEW)
    ours = {name: drift.psi(before[name].total[1:], after[name].total[1:], floor=1e-15) for name in stock}
    return float(max(abs(ours[name] - value) for name, value in stock.items()))


def _evidently(folder: str) -> dict[str, Any]:
    """Run bench/stock_evidently.py in an environment of its own."""
    home, uv = ROOT / "build" / "bench-evidently", str(ROOT / "build" / "tools" / "bin" / "uv")
    python = home / "bin" / "python"
    if not python.is_file():
        output.step(f"an environment for {EVIDENTLY[0]}")
        subprocess.run([uv, "venv", "-q", "--python", "3.11", str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *EVIDENTLY], check=True)
    asked = json.dumps({"numbers": NUMBERS, "categories": CATEGORIES})
    script = str(ROOT / "bench" / "stock_evidently.py")
    command = [str(python), "-W", "ignore", script, folder, str(STOCK_ROUNDS), asked]
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
