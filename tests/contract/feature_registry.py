"""Processes that change one registry of Feast at the same moment, and a domain that grows by each apply."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adin.features import repo, store
from adin.settings import settings
from adin.window import Window

DEFINITIONS = """
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Float64

key = Entity(name="{name}_key", join_keys=["{name}_id"], value_type=ValueType.STRING)
source = SparkSource(name="{name}_source", table="{name}.{name}", timestamp_field="event_timestamp")
view = FeatureView(name="{name}", entities=[key], schema=[{fields}], source=source)
service = FeatureService(name="{name}_service", features=[view])
"""
ROUNDS = 4
HEAVY = (
    "adin.features.registry_file",
    "feast.infra.registry.sql",
    "feast.infra.online_stores.redis",
    "feast.infra.offline_stores.contrib.spark_offline_store.spark_source",
)
FIRST = datetime(2013, 1, 1, tzinfo=UTC)


def write_domain(root: Path, name: str, fields: int, *, text: str = "") -> None:
    """Write a domain with one view of so many features."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    listed = ", ".join(f'Field(name="f{n}", dtype=Float64)' for n in range(fields))
    (folder / "definitions.py").write_text((text or DEFINITIONS).format(name=name, fields=listed))
    (folder / f"{name}.sql").write_text("SELECT 1")
    (folder / "raw.yaml").write_text(f"tables:\n  t: {{columns: {{a: string}}}}\nviews:\n  {name}: {{reads: [t]}}\n")


def forget() -> None:
    """Read settings and definitions anew."""
    settings.cache_clear()
    repo.read_anew()


def day(number: int) -> Window:
    """A day of which no two touch each other."""
    start = FIRST + timedelta(days=2 * number)
    return Window(start, start + timedelta(days=1))


def change(n: int, barrier: Any, queue: Any, editions: list[dict[str, str]], folder: str) -> None:
    """Per edition, apply a growing domain of one's own (0, 1), or record loads of the view that all share (2, 3)."""
    try:
        for place, environment in enumerate(editions):
            os.environ |= environment
            root = Path(folder) / str(place) / str(n)
            os.environ["ADIN_FEATURE_REPO"] = str(root)
            forget()
            store.feature_store()
            barrier.wait(300)
            _change(n, root)
        queue.put("")
    except Exception as error:  # told to the test, which fails by it
        queue.put(repr(error))


def _change(n: int, root: Path) -> None:
    for turn in range(ROUNDS):
        if n < 2:
            write_domain(root, f"own{n}", turn + 1)
            forget()
            store.apply(f"own{n}")
        else:
            store.record_interval("shared", day(2 * turn + n % 2))
