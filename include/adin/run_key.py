"""The name a job carries in the system it runs in, so that a retry finds it instead of starting another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def run_key(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """Return the deterministic key of one piece of work; the try number is no part of it.

    :returns: at most 63 characters of ``[a-z0-9-]``: a readable head and a hash of all four parts.
    """
    digest = hashlib.sha256(json.dumps([dag_id, run_id, task_id, map_index]).encode()).hexdigest()[:16]
    head = re.sub(r"[^a-z0-9]+", "-", f"{dag_id}-{task_id}".lower()).strip("-")[:46]
    return f"{head}-{digest}"


def content_hash(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of facts in canonical JSON: equal facts, equal hash."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
