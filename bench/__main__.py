"""Run the rows and print the table: ``python -m bench [ROW]``, on a running stack after ``make demo``."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path

from adin.commands import output
from adin.settings import ROOT

ROWS = (
    "clickhouse_load",
    "serving",
    "push",
    "orchestration_share",
    "registry",
    "online_writer",
    "increment",
    "online_read",
    "point_in_time",
    "drift",
    "spark_start",
)


def main() -> None:
    """Measure, print, and write ``build/bench.json``."""
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*experimental feature")  # Feast's
    asked = sys.argv[1:] or list(ROWS)
    found, failed = [], []
    for row in asked:
        output.step(f"bench {row}")
        try:
            found += importlib.import_module(f"bench.{row}").measure()
        except Exception as error:  # the other rows are worth their time all the same
            failed.append(row)
            output.errors.print(f"{row} failed: {type(error).__name__}: {error}", highlight=False, soft_wrap=True)
    for row in found:
        # ratios above 1 mean ours is better; for seconds less is better
        better = (
            (lambda other, ours: other / ours) if row["unit"] in {"s", "ms", "share"} else (lambda o, ours: ours / o)
        )
        for name in ("stock", "limit"):
            value = row[name]
            row[f"ratio_to_{name}"] = round(better(value, row["ours"]), 3) if value and row["ours"] else None
    path = Path(ROOT / "build" / "bench.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2))
    columns = ["name", "unit", "ours", "stock", "limit", "ratio_to_stock", "ratio_to_limit", "equal", "note"]
    output.table(columns, [[row[column] for column in columns] for row in found])
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
