"""Seconds to load the next day, in which a part of the entities changed: ours | Feast's local engine | a share of ours.

The limit is what a cost in proportion to the changed rows would be: our full load times the part that changed.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench import online_project as project
from bench.measuring import redis

ROUNDS = 3
PARTS = (0.01, 0.1)


def measure() -> list[dict[str, Any]]:
    """Return seconds of the next day's load after the same full load of both."""
    with tempfile.TemporaryDirectory() as folder, redis(Path(folder), kept=False) as conn:
        sides = {
            name: project.Project(Path(folder) / name, conn, engine)
            for name, engine in (("ours", "ours"), ("stock", "local"))
        }
        spent: dict[tuple[str, float], list[float]] = {}
        after: dict[float, list[Any]] = {}
        for attempt in range(ROUNDS):
            for name, side in sides.items():
                project.ask(conn, b"FLUSHALL")
                side.put(project.rows())
                spent.setdefault((name, 1.0), []).append(project.seconds(side.materialize))
                for day, part in enumerate(PARTS, 1):
                    changed = int(project.ROWS * part)
                    side.put(project.rows(changed, day=day, start=day * 1000))
                    took = project.seconds(lambda side=side, day=day: side.materialize(day))  # type: ignore[misc]
                    spent.setdefault((name, part), []).append(took)
                    if not attempt:
                        after.setdefault(part, []).append(project.content(conn))
            assert all(first == second for first, second in after.values()), "the stores differ"
    median = {key: statistics.median(each) for key, each in spent.items()}
    full = f"full load of {project.ROWS:,} rows: ours {median['ours', 1.0]:.2f} s, Feast {median['stock', 1.0]:.2f} s"
    return [
        {
            "name": f"increment_{part:.0%}".replace("%", "pc"),
            "unit": "s",
            "ours": round(median["ours", part], 3),
            "stock": round(median["stock", part], 3),
            "limit": round(median["ours", 1.0] * part, 3),
            "equal": True,
            "note": f"{int(project.ROWS * part):,} changed rows; {full}",
        }
        for part in PARTS
    ]
