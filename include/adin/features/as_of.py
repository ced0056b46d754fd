"""The point-in-time join of views that fit in memory: entity rows stream past them, and nothing is sorted or moved.

A view becomes arrays, ordered by key and by when a row was available; beside each place stands the greatest (event
time, created time, features) seen by then of its key. An entity row finds its place by binary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.features.ties import deciding, ordered

if TYPE_CHECKING:
    from adin.features.repo import View

_NEVER = np.iinfo(np.int64).min


class Seen:
    """What is known of each key of a view, at any time.

    :param rows: the view's keys, event time, created time and features; those without a key or an event time stand for
        nothing. Without a created time they are known from their event time on.
    :param answers: features to be taken; the others only decide. Default all.
    """

    def __init__(self, view: View, rows: pa.Table, answers: Sequence[str] | None = None) -> None:
        for name in (*view.keys, view.event):
            if rows[name].null_count:
                rows = rows.filter(rows[name].is_valid())
        rows = rows.combine_chunks()
        self._ttl = int(view.ttl.total_seconds() * 1_000_000)
        self._features = rows.select(list(dict(view.features) if answers is None else answers))
        self._event = micros(rows[view.event])
        created = micros(rows[view.created])
        created = np.where(created == _NEVER, self._event, created)
        self._keys: list[pa.Array] = []
        code = np.zeros(len(rows), np.int64)
        for name in view.keys:
            encoded = pc.dictionary_encode(rows[name]).combine_chunks()
            self._keys.append(encoded.dictionary)
            code = code * len(encoded.dictionary) + np.asarray(encoded.indices)
        self._codes, code = np.unique(code, return_inverse=True)
        known = np.maximum(self._event, created)
        self._clock = Clock(known, len(self._codes))
        by_worth = ordered((code, self._event, created), deciding(view, rows))
        worth = np.empty_like(by_worth)
        worth[by_worth] = np.arange(len(worth))
        place = code * self._clock.span + self._clock.read(known)
        order = np.argsort(place, kind="stable")
        self._places = place[order]
        # a key's worths lie above those of the key before: one running maximum serves all keys
        self._best = by_worth[np.maximum.accumulate(worth[order])]

    def find(self, keys: Sequence[pa.Array], at: np.ndarray) -> pa.Array:
        """Return the place of each entity row's row, null where nothing was known or it is older than the TTL.

        :param keys: one array for each of the view's keys; :param at: microseconds, :data:`_NEVER` for null.
        """
        if not len(self._places):
            return pa.nulls(len(at), pa.int64())
        code, known = np.zeros(len(at), np.int64), at != _NEVER
        for values, dictionary in zip(keys, self._keys, strict=True):
            index = pc.index_in(values.cast(dictionary.type), value_set=dictionary)
            known &= np.asarray(index.is_valid())
            code = code * len(dictionary) + np.asarray(index.fill_null(0))
        if len(keys) > 1:  # those of one key are all in use
            dense = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
            known &= self._codes[dense] == code
            code = dense
        first, time = code * self._clock.span, self._clock.read(at)
        place = np.searchsorted(self._places, first + time, side="right") - 1
        known &= (time >= 0) & (place >= 0)
        known &= self._places[place] >= first
        row = self._best[place]
        if self._ttl:
            known &= self._event[row] >= at - self._ttl
        return pa.array(row, mask=~known)

    def take(self, places: pa.Array) -> list[pa.Array]:
        """Return the features at some places, null where there is none."""
        return [pc.take(column.combine_chunks(), places) for column in self._features.columns]


class Clock:
    """Gives times small whole numbers in their order: how many of their common unit they lie after the first.

    Where those would be too great, their ranks.

    :param times: microseconds.
    :param keys: how many keys have such times: the numbers times the keys must fit into 64 bits.
    """

    def __init__(self, times: np.ndarray, keys: int) -> None:
        self._first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        self._unit = max(1, int(np.gcd.reduce(times - self._first)))
        self.span = (last - self._first) // self._unit + 1
        self._ranks = None
        if self.span * keys > np.iinfo(np.int64).max:
            self._ranks = np.unique(times)
            self.span = len(self._ranks)

    def read(self, at: np.ndarray) -> np.ndarray:
        """Return the number of the latest time that is not after each of some moments, -1 where there is none."""
        if self._ranks is not None:
            return np.searchsorted(self._ranks, at, side="right") - 1
        return np.clip((at - self._first) // self._unit, -1, self.span - 1)


def micros(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return times as microseconds since 1970, :data:`_NEVER` for null."""
    times = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).fill_null(_NEVER))
