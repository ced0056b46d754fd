"""Versions beside each other: what they were made from, with what, and how well they do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adin.errors import ConfigError
from adin.models.manifest import ModelManifest
from adin.models.registry import ModelVersion, Registry

#: Facts of a manifest that are one value each.
_FACTS = (
    "description",
    "owner",
    "created",
    "dataset",
    "window",
    "service",
    "registry",
    "code_version",
    "kfp_run",
    "parent",
)


def compare(models: Registry, wanted: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return two or more versions beside each other; each list has one value a version, in the order given.

    :param wanted: model and number of each; they need not be of one model. The first is what others are measured by.
    :returns: ``versions``, ``facts``, ``parameters``, ``features`` (each a list of rows ``{name, values, same}``),
        ``metrics`` (rows with ``split``, ``slice`` and the ``change`` against the first) and ``sources`` (per table the
        partitions that were added, dropped or made anew against the first).
    :raises ConfigError: fewer than two are named.
    :raises NotFoundError: one of them is not there.
    """
    if len(wanted) < 2:
        raise ConfigError("One version cannot be compared.", "Name two or more.")
    found = [models.version(model, number) for model, number in wanted]
    manifests = [version.manifest for version in found]
    states = {model: models.state(model) for model, _ in wanted}
    return {
        "versions": [_head(version, states[version.model].versions[version.number]) for version in found],
        "facts": _rows({name: [getattr(manifest, name) for manifest in manifests] for name in _FACTS}),
        "parameters": _rows(_beside([manifest.parameters for manifest in manifests])),
        "metrics": [_metric(manifests, *place) for place in _places(manifests)],
        "features": _rows(_beside([manifest.signature.inputs for manifest in manifests])),
        "sources": _sources(manifests),
    }


def _head(version: ModelVersion, state: str) -> dict[str, Any]:
    return {"model": version.model, "version": version.number, "state": state, "manifest_sha256": version.digest}


def _beside(given: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for each in given for name in each)
    return {name: [each.get(name) for each in given] for name in names}


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "values": values, "same": all(value == values[0] for value in values)}
        for name, values in columns.items()
    ]


def _places(manifests: Iterable[ModelManifest]) -> list[tuple[str, str, str]]:
    """Return every split, slice and metric that one of them has."""
    return list(
        dict.fromkeys(
            (split, slice_, name)
            for manifest in manifests
            for split, slices in manifest.metrics.items()
            for slice_, values in slices.items()
            for name in values
        )
    )


def _metric(manifests: Sequence[ModelManifest], split: str, slice_: str, name: str) -> dict[str, Any]:
    values = [manifest.metric(name, split=split, slice_=slice_) for manifest in manifests]
    first = values[0]
    change = [None if value is None or first is None else value - first for value in values]
    return {"split": split, "slice": slice_, "name": name, "values": values, "change": change}


def _sources(manifests: Sequence[ModelManifest]) -> list[dict[str, Any]]:
    first = manifests[0].sources
    rows = []
    for table in dict.fromkeys(table for manifest in manifests for table in manifest.sources):
        old = first.get(table, {})
        given = [manifest.sources.get(table, {}) for manifest in manifests]
        rows.append(
            {
                "name": table,
                "partitions": [len(days) for days in given],
                "added": [len(days.keys() - old.keys()) for days in given],
                "dropped": [len(old.keys() - days.keys()) for days in given],
                "made_anew": [sum(days[day] != old[day] for day in days.keys() & old.keys()) for days in given],
                "same": all(days == old for days in given),
            }
        )
    return rows
