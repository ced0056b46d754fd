"""All collectors there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adin.retention.phases import Collector

if TYPE_CHECKING:
    from adin.models import Registry


def collectors(models: Registry) -> list[Collector]:
    """Return the collectors in the order they run: versions give up their files before files are looked at."""
    from adin.models.garbage import Files, Manifests, Versions

    return [Versions(models), Files(models), Manifests(models)]
