"""How far two histograms lie apart, from counts alone: the last axis holds the bins, others are windows."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # a numpy array; numpy is not typed where the checks run

#: Shares below this count as this in the PSI: an empty bin is no infinite difference.
FLOOR = 1e-4


def shares(counts: Array) -> Array:
    """Return counts as shares of their sum; NaN where nothing was counted."""
    counts = np.asarray(counts, float)
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def psi(reference: Array, current: Array, *, floor: float = FLOOR) -> Array:
    """Return the population stability index, 0 for equal shares."""
    before, after = np.maximum(shares(reference), floor), np.maximum(shares(current), floor)
    return ((after - before) * np.log(after / before)).sum(axis=-1)


def jensen_shannon(reference: Array, current: Array) -> Array:
    """Return the Jensen-Shannon distance to base 2: 0 for equal shares, 1 for shares that have no bin in common."""
    before, after = np.broadcast_arrays(shares(reference), shares(current))
    middle = (before + after) / 2
    divergence = (_relative(before, middle) + _relative(after, middle)) / 2
    return np.sqrt(np.maximum(divergence, 0))


def _relative(p: Array, q: Array) -> Array:
    ratio = np.divide(p, q, out=np.ones_like(p), where=(p > 0) | np.isnan(p))
    return (p * np.log2(ratio)).sum(axis=-1)


def kolmogorov_smirnov(reference: Array, current: Array) -> Array:
    """Return the largest distance of the two distribution functions at the edges of the bins."""
    return np.abs(_gap(reference, current)).max(axis=-1)


def wasserstein(reference: Array, current: Array, places: Array) -> Array:
    """Return the mean way a value moved, all values of a bin standing at its place.

    :param places: one ascending number a bin, in the feature's unit.
    """
    return (np.abs(_gap(reference, current))[..., :-1] * np.diff(np.asarray(places, float))).sum(axis=-1)


def _gap(reference: Array, current: Array) -> Array:
    return np.cumsum(shares(current) - shares(reference), axis=-1)


def share(counts: Array, bins: slice | int | list[int]) -> Array:
    """Return the share of some bins."""
    picked = shares(counts)[..., bins]
    return picked if isinstance(bins, int) else picked.sum(axis=-1)


def spread(counts: Array, places: Array) -> Array:
    """Return the standard deviation of values that stand at the places of their bins."""
    part, at = shares(counts), np.asarray(places, float)
    mean = (part * at).sum(axis=-1, keepdims=True)
    return np.sqrt((part * (at - mean) ** 2).sum(axis=-1))
