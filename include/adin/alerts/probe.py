"""Print, as one JSON document, how fresh features and datasets are: ``python -m adin.alerts.probe``.

A process of its own, because Feast takes seconds and hundreds of megabytes that the alert service should not keep.
What cannot be read is named under ``errors``; the rest is told none the less.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from adin.errors import NotFoundError
from adin.problem import names as problems
from adin.window import Window


def main() -> None:
    """Print what was found."""
    found: dict[str, Any] = {"views": [], "datasets": [], "errors": {}}
    for name in _domains(found):
        _read(found, f"features of {name}", lambda name=name: found["views"].extend(_views(name)))  # type: ignore[misc]
    for name in problems():
        _read(found, f"datasets of {name}", lambda name=name: found["datasets"].extend(_datasets(name)))  # type: ignore[misc]
    json.dump(found, sys.stdout)


def _domains(found: dict[str, Any]) -> list[str]:
    from adin.features import repo

    names: list[str] = []
    _read(found, "feature repository", lambda: names.extend(repo.domains()))
    return names


def _read(found: dict[str, Any], what: str, read: Callable[[], Any]) -> None:
    try:
        read()
    except Exception as error:  # one that cannot be read hides no other
        found["errors"][what] = str(error)[:300]


def _views(name: str) -> list[dict[str, Any]]:
    """Return until when each view is online, and until when it could be; static tables are never late."""
    from adin.features import repo

    domain = repo.domain(name)
    now = datetime.now(UTC)
    end = domain.arrives.end if domain.arrives else None
    rows = []
    for view in domain.views:
        if not view.features or domain.static(view.name):
            continue
        online = _intervals(view.name)
        until = max((window.end for window in online), default=None)
        expected = min(now, end) if end else now
        rows.append(
            {
                "domain": name,
                "view": view.name,
                "online_until": until.isoformat() if until else None,
                "lag": (expected - until).total_seconds() if until else None,
            }
        )
    return rows


def _intervals(view: str) -> list[Window]:
    """Return what is online of a view; nothing of one that was not applied yet."""
    from adin.features import store
    from adin.features.feast_import import import_feast

    import_feast()
    from feast.errors import FeatureViewNotFoundException

    try:
        return store.intervals(view)
    except FeatureViewNotFoundException:
        return []


def _datasets(name: str) -> list[dict[str, Any]]:
    from adin import datasets

    try:
        newest = datasets.newest(name)
    except NotFoundError:
        return []
    created = datetime.fromisoformat(newest.manifest["created"])
    return [{"problem": name, "rows": sum(newest.rows.values()), "created": created.timestamp()}]


if __name__ == "__main__":
    main()
