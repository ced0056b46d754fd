"""Milliseconds to read 5 features of 1, 10 and 100 entities: ours | Feast's SDK | redis-py's HMGET, not decoded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from adin.features import codec, repo, writer
from adin.features.reader import OnlineReader
from adin.settings import settings
from redis import Redis

from bench import online_project as project
from bench.measuring import redis

CALLS = 400
SIZES = (1, 10, 100)


def measure() -> list[dict[str, Any]]:
    """Return p50 and p99 of each, asked in turn, for the same entities."""
    names = [f"bench:{name}" for name in project.NAMES]
    columns = tuple(f"bench__{name}" for name in project.NAMES)
    service = repo.Service("bench", (project.VIEW,), (), columns, ())
    fields = [b"_ts:bench", *(codec.field_name("bench", name) for name in project.NAMES)]
    random = np.random.default_rng(5)
    found = []
    with tempfile.TemporaryDirectory() as folder, redis(Path(folder), kept=False) as conn:
        feast = project.Project(Path(folder) / "stock", conn, "local").feast
        writer.write(project.VIEW, project.rows(), conn=conn)
        reader = OnlineReader(service, conn)
        bare = Redis(conn.host, conn.port or 0, password=conn.password)

        def hmget(keys: list[dict[str, int]]) -> Any:
            pipe = bare.pipeline(transaction=False)
            for key in keys:
                pipe.hmget(codec.entity_key({"id": ("Int64", key["id"])}, settings().project), fields)
            return pipe.execute()

        ways = {
            "ours": reader.read,
            "stock": lambda keys: feast.get_online_features(names, keys).to_dict(),
            "limit": hmget,
        }
        for size in SIZES:
            asked = [[{"id": int(n)} for n in random.integers(0, project.ROWS, size)] for _ in range(CALLS)]
            for keys in asked[:10]:
                mine, theirs = reader.read(keys)[0], ways["stock"](keys)
                for name in project.NAMES:
                    assert list(mine[f"bench__{name}"]) == theirs[name], "the answers differ"
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for keys in asked:
                for name, way in ways.items():
                    spent[name].append(project.seconds(lambda way=way, keys=keys: way(keys)) * 1000)  # type: ignore[misc]
            for percent in (50, 99):
                values = {name: round(float(np.percentile(each, percent)), 3) for name, each in spent.items()}
                note = f"{size} entities, {len(project.NAMES)} features, {CALLS} calls"
                found.append(
                    {"name": f"online_read_{size}_p{percent}", "unit": "ms", **values, "equal": True, "note": note}
                )
        bare.close()
        reader.close()
    return found
