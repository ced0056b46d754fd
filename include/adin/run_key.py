"""The name a job carries in the system it runs in, so that a retry finds it instead of starting another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def run_key(dag_id: str, run_id: str, task_id: str, map_index: int = -1, asked: Mapping[str, Any] | None = None) -> str:
    """Return the deterministic key of one piece of work; the try number is no part of it.

    :param asked: what the work is to do, where it may be asked for something else under the same task: a task that is
        cleared after its input changed is other work.
    :returns: at most 63 characters of ``[a-z0-9-]``: a readable head and a hash of all parts.
    """
    parts = [dag_id, run_id, task_id, map_index, *([content_hash(asked)] if asked else [])]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    head = re.sub(r"[^a-z0-9]+", "-", f"{dag_id}-{task_id}".lower()).strip("-")[:46]
    return f"{head}-{digest}"


def content_hash(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of facts in canonical JSON: equal facts, equal hash."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
