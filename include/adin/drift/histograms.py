"""One histogram a feature, day and role, counted by the engine itself; windows are sums, no row is read twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np

from adin.datasets.clickhouse import identifier, literal
from adin.drift.references import ROWS, Feature, Reference
from adin.drift.tables import HISTOGRAMS, Store
from adin.errors import DataError

Role = Literal["training", "new"]
Array = Any


@dataclass(frozen=True)
class Days:
    """Counts of one feature by day.

    :param days: days from an epoch of NumPy, ascending; days without rows are not there.
    :param counts: a row a day, a column a bin.
    :param low: smallest value of each day, NaN for categories.
    """

    days: Array
    counts: Array
    low: Array
    high: Array

    @property
    def total(self) -> Array:
        """Return the counts of all days together."""
        return self.counts.sum(axis=0)

    def between(self, first: date, after: date) -> Days:
        """Return the days from ``first`` on and before ``after``."""
        chosen = (self.days >= np.datetime64(first)) & (self.days < np.datetime64(after))
        return Days(self.days[chosen], self.counts[chosen], self.low[chosen], self.high[chosen])

    def windows(self, starts: Array, length: int) -> Array:
        """Return the counts of windows: sums of their days, zero where there are none.

        :param starts: first day of each window.
        :param length: days of each.
        """
        summed = np.vstack([np.zeros((1, self.counts.shape[1])), np.cumsum(self.counts, axis=0)])
        first = np.searchsorted(self.days, starts, "left")
        after = np.searchsorted(self.days, starts + np.timedelta64(length, "D"), "left")
        return summed[after] - summed[first]


def starts(first: date, after: date, length: int) -> Array:
    """Return the first days of the whole windows that end before ``after``, counted back from it, ascending."""
    count = max((after - first).days // length, 0)
    last = np.datetime64(after, "D")
    return np.array([last - length * n for n in range(count, 0, -1)], dtype="datetime64[D]")


def fill(store: Store, reference: Reference, role: Role, commit: str, key: str) -> bool:
    """Count the rows of a dataset version by day, for all features by one query; return whether it was necessary.

    :param role: ``training`` counts the training split, ``new`` all rows of the days after the reference's last.
    :param key: run key.
    :raises DataError: other rows were counted than there are; nothing was made visible.
    """
    rows = f"FROM {store.table(reference.problem)} WHERE _commit = {literal(commit)} AND {_chosen(reference, role)}"
    expected = int(store.rows(f"SELECT count() {rows}")[0][0])
    if not expected or _counted(store, store.table(HISTOGRAMS), reference, role, commit) == expected:
        return False

    def whole(staging: str) -> None:
        counted = _counted(store, staging, reference, role, commit)
        if counted != expected:
            raise DataError(f"{counted} rows of {commit[:12]} were counted, it has {expected}.", "Run it again.")

    partition = (reference.problem, reference.id, role, commit)
    store.replace(HISTOGRAMS, partition, f"{key}-{role}", _query(reference, partition, rows), whole)
    return True


def read(store: Store, reference: Reference, role: Role, commit: str) -> dict[str, Days]:
    """Return the histograms of a dataset version by feature; a feature without rows is not there."""
    found = store.rows(
        f"SELECT feature, groupArray(toString(day)), groupArray(counts), groupArray(ifNull(low, nan)), "
        f"groupArray(ifNull(high, nan)) FROM (SELECT * FROM {store.table(HISTOGRAMS)} "
        f"WHERE {_partition(reference, role, commit)} ORDER BY feature, day) GROUP BY feature"
    )
    return {
        name: Days(
            np.array(days, "datetime64[D]"), np.array(counts, float), np.array(low, float), np.array(high, float)
        )
        for name, days, counts, low, high in found
    }


def joined(before: Mapping[str, Days], after: Mapping[str, Days]) -> dict[str, Days]:
    """Return the days of both, feature by feature."""
    return {
        name: Days(*(np.concatenate([getattr(days, part), getattr(after[name], part)]) for part in _PARTS))
        if name in after
        else days
        for name, days in before.items()
    }


_PARTS = ("days", "counts", "low", "high")


def _chosen(reference: Reference, role: Role) -> str:
    if role == "training":
        return "split = 'train'"
    return f"toDate(event_timestamp, 'UTC') > {literal(str(reference.last))}"


def _partition(reference: Reference, role: Role, commit: str) -> str:
    return (
        f"problem = {literal(reference.problem)} AND reference = {literal(reference.id)} "
        f"AND role = {literal(role)} AND commit = {literal(commit)}"
    )


def _counted(store: Store, table: str, reference: Reference, role: Role, commit: str) -> int:
    where = f"{_partition(reference, role, commit)} AND feature = {literal(ROWS)}"
    return int(store.rows(f"SELECT sum(arraySum(counts)) FROM {table} WHERE {where}")[0][0])


def _query(reference: Reference, partition: tuple[str, ...], rows: str) -> str:
    """Return the one query that counts everything: a pass over the rows, grouped by day."""
    values = ", ".join(_value(feature, f"v{n}") for n, feature in enumerate(reference.features))
    cells = ", ".join(_cell(feature, f"v{n}") for n, feature in enumerate(reference.features))
    # a tuple, for alone a null key would not be counted
    unique = f"uniqExact(tuple({', '.join(map(identifier, reference.keys))}))" if reference.keys else "count()"
    again = f"({literal(ROWS)}, [toUInt64({unique}), toUInt64(count() - {unique})], NULL, NULL)"
    keys = "".join(f"{identifier(key)}, " for key in reference.keys)
    inner = f"SELECT toDate(event_timestamp, 'UTC') AS _day, {keys}{values} {rows}"
    grouped = f"SELECT _day, [{again}, {cells}] AS cells FROM ({inner}) GROUP BY _day"
    constants = ", ".join(map(literal, partition))
    return f"SELECT {constants}, cell.1, _day, cell.2, cell.3, cell.4 FROM ({grouped}) ARRAY JOIN cells AS cell"


def _value(feature: Feature, alias: str) -> str:
    """Return the expression of a value as it is counted: a number, or the place of a category's bin.

    Null is NaN, or place 0: sums over columns that cannot be null take half the time.
    """
    column = identifier(feature.name)
    if feature.numeric:
        return f"ifNull(toFloat64({column}), nan) AS {alias}"
    other = len(feature.values) + 1
    known = feature.values if feature.known is None else feature.known
    strange = other if feature.known is None else other + 1
    if not known:
        return f"if(isNull({column}), 0, {strange}) AS {alias}"
    listed = ", ".join(map(literal, known))
    places = [*range(1, other), *[other] * (len(known) - len(feature.values))]
    text = f"transform(ifNull(toString({column}), ''), [{listed}], {places}, {strange})"
    return f"if(isNull({column}), 0, {text}) AS {alias}"


def _cell(feature: Feature, value: str) -> str:
    """Return the tuple of a feature's name, counts, smallest and largest value."""
    if not feature.numeric:
        counts = ", ".join(f"sum({value} = {n})" for n in range(len(feature.values) + 3))
        return f"({literal(feature.name)}, [{counts}], NULL, NULL)"
    *inner, last = (f"{edge!r}" for edge in feature.edges)
    present = f"sum(NOT isNaN({value}))"
    # counts below each edge, whose differences are the bins: cheaper than to look up the bin of each value
    below = [f"sum({value} < {edge})" for edge in inner] + [f"sum({value} <= {last})", present]
    steps = f"arrayPopFront(arrayDifference([toInt64(0), {', '.join(f'toInt64({n})' for n in below)}]))"
    counts = f"arrayConcat([toUInt64(count() - {present})], arrayMap(n -> toUInt64(n), {steps}))"
    seen = f"isFinite({value})"
    return f"({literal(feature.name)}, {counts}, minOrNullIf({value}, {seen}), maxOrNullIf({value}, {seen}))"


def day_after(day: date) -> date:
    """Return the next day."""
    return day + timedelta(days=1)
