"""Evidently's drift report by PSI as its documents show it; run by bench/drift.py in an environment of its own."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main() -> None:
    """Read both samples, measure, print one line of JSON; reading is not counted."""
    folder, rounds, ask = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    definition = DataDefinition(numerical_columns=ask["numbers"], categorical_columns=ask["categories"])
    reference, current = (pd.read_parquet(folder / f"{name}.parquet") for name in ("reference", "current"))
    seconds, found = [], {}
    for _ in range(rounds):
        began = time.perf_counter()
        both = [Dataset.from_pandas(frame, data_definition=definition) for frame in (current, reference)]
        found = Report([DataDriftPreset(method="psi")]).run(*both).dict()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(seconds), "psi": values(found)}))  # noqa: T201


def values(found: dict[str, Any]) -> dict[str, float]:
    """Return the PSI of each column."""
    told = {}
    for metric in found["metrics"]:
        name = re.search(r"column=(\w+)", str(metric.get("metric_name") or metric.get("metric_id")))
        if name and isinstance(metric["value"], float):
            told[name[1]] = metric["value"]
    return told


if __name__ == "__main__":
    main()
