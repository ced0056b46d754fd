"""All collectors there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adin.connections import declared
from adin.retention.phases import Collector

if TYPE_CHECKING:
    from adin.models import Registry


def collectors(models: Registry) -> list[Collector]:
    """Return the collectors of the services there are, in the order they run.

    What refers comes before what is referred to: model versions, then the runs and datasets they came of, then files.
    """
    found = registry_collectors(models)
    if declared("kfp"):
        from adin.pipelines.garbage import Runs

        found.append(Runs(models))
    if declared("lakefs"):
        from adin.datasets import garbage
        from adin.datasets.lake import Lake

        lake = Lake()
        found += [garbage.Versions(models, lake), garbage.Files(lake), garbage.Temporary(lake)]
    if declared("spark"):
        from adin.features.garbage import Partitions

        found.append(Partitions())
    return found


def registry_collectors(models: Registry) -> list[Collector]:
    """Return the collectors of the registry's own things: versions, their files, manifests."""
    from adin.models.garbage import Files, Manifests, Versions

    return [Versions(models), Files(models), Manifests(models)]
