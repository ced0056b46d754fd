"""What new rows are compared with: the bins of each feature, frozen with the dataset a model learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np

from adin.datasets.clickhouse import identifier, literal
from adin.drift.tables import REFERENCES, Store
from adin.errors import DataError
from adin.run_key import content_hash

#: Bins of a numeric feature; numbers with at most so many different values are taken as categories.
BINS, DISCRETE = 10, 24
#: Values of a category that get a bin of their own, and those remembered so that a new one is known to be new.
SHOWN, KNOWN = 30, 10_000
#: Pseudo-feature whose counts are a day's rows that are there once, and those that are there again.
ROWS = "*"
_FORM = 1
_NUMBERS = ("Int", "UInt", "Float", "Decimal", "Date")


@dataclass(frozen=True)
class Feature:
    """One column and its bins.

    Of a number: null, below the reference, ``len(edges) - 1`` bins, above it. Of a category: null, one a value of
    ``values``, other known ones, new ones.

    :param edges: ascending; the first and last are the smallest and largest value of the reference.
    :param known: all values of the reference, as text; None if there are too many to tell a new one.
    """

    name: str
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None

    @property
    def numeric(self) -> bool:
        """Tell whether the bins are spans of numbers."""
        return bool(self.edges)

    @property
    def bins(self) -> list[str]:
        """Return the names of the bins, for people."""
        if not self.numeric:
            return ["null", *self.values, "other", "new"]
        spans = [f"{low:.4g} .. {high:.4g}" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return ["null", f"< {self.edges[0]:.4g}", *spans, f"> {self.edges[-1]:.4g}"]

    @property
    def strange(self) -> list[int]:
        """Return the bins that are empty in the reference: out of range, or new."""
        if self.numeric:
            return [1, len(self.edges) + 1]
        return [] if self.known is None else [len(self.values) + 2]

    @property
    def places(self) -> Any:
        """Return a number for each bin but null: its middle; beyond the ends, the end."""
        edges = np.asarray(self.edges)
        return np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])


@dataclass(frozen=True)
class Reference:
    """The frozen bins of all features of one dataset version's training split.

    :param id: hash of the commit and of how bins are made; the same request gives the same reference.
    :param label: column of the label, which is among the features.
    :param keys: columns that name a row.
    :param last: last day of the training split; new rows begin the day after.
    """

    problem: str
    id: str
    commit: str
    label: str
    keys: tuple[str, ...]
    last: date
    rows: int
    features: tuple[Feature, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Feature]:
        """Return the features by name."""
        return {feature.name: feature for feature in self.features}

    def document(self) -> str:
        """Return the reference as JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def read(cls, document: str) -> Reference:
        """Read a reference from its JSON."""
        facts = json.loads(document)
        features = [
            Feature(
                each["name"],
                tuple(each["edges"]),
                tuple(each["values"]),
                None if each["known"] is None else tuple(each["known"]),
            )
            for each in facts.pop("features")
        ]
        last, keys = date.fromisoformat(facts.pop("last")), tuple(facts.pop("keys"))
        return cls(**facts, keys=keys, last=last, features=tuple(features))


def reference_id(commit: str, label: str, features: Sequence[str]) -> str:
    """Return the id of a reference before it is made."""
    facts = {"form": _FORM, "bins": BINS, "discrete": DISCRETE, "shown": SHOWN, "known": KNOWN}
    return content_hash({**facts, "commit": commit, "label": label, "features": list(features)})[:16]


def freeze(store: Store, problem: str, commit: str, label: str, features: Sequence[str], key: str) -> Reference:
    """Return the reference of a dataset version, making and keeping it the first time.

    :param features: columns to watch, without the label.
    :param key: run key.
    :raises DataError: the version has no training rows in ClickHouse.
    """
    wanted = reference_id(commit, label, features)
    if found := load(store, problem, wanted):
        return found
    kinds = store.columns(problem)
    rows, last = store.rows(
        f"SELECT count(), max(toDate(event_timestamp, 'UTC')) FROM {store.table(problem)} WHERE {_of(commit)}"
    )[0]
    if not rows:
        raise DataError(f"{store.table(problem)} has no training rows of {commit[:12]}.", "Load the version again.")
    watched = [label, *(name for name in features if name in kinds and name != label)]
    numbers = [name for name in watched if kinds[name].startswith(_NUMBERS)]
    spread = _edges(store, problem, commit, numbers)
    made = [
        Feature(name, edges=spread[name]) if name in spread else _category(store, problem, commit, name)
        for name in watched
        if name in spread or not kinds[name].startswith(("Array", "Map", "Tuple"))
    ]
    outside = {"split", "_commit", label}
    keys = tuple(name for name in kinds if "__" not in name and name not in outside)
    found = Reference(problem, wanted, commit, label, keys, last, int(rows), tuple(made))
    values = ", ".join(map(literal, (problem, wanted, found.document())))

    def whole(staging: str) -> None:
        if store.rows(f"SELECT count() FROM {staging}") != [(1,)]:
            raise DataError(f"The reference of {problem} was not written whole.", "Run it again.")

    store.replace(REFERENCES, (problem, wanted), f"{key}-bins", f"SELECT {values}", whole)
    return found


def load(store: Store, problem: str, reference: str) -> Reference | None:
    """Return a reference that was made before, None if it was not."""
    found = store.rows(
        f"SELECT document FROM {store.table(REFERENCES)} "
        f"WHERE problem = {literal(problem)} AND reference = {literal(reference)}"
    )
    return Reference.read(found[0][0]) if found else None


def _of(commit: str) -> str:
    return f"_commit = {literal(commit)} AND split = 'train'"


def _edges(store: Store, problem: str, commit: str, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the edges of the numbers that have many values, all by one query."""
    if not names:
        return {}
    levels = ", ".join(f"{n / BINS:g}" for n in range(BINS + 1))
    asked = ", ".join(
        f"uniqUpTo({DISCRETE})({identifier(name)}), "
        f"quantilesExactIf({levels})(toFloat64({identifier(name)}), isFinite(toFloat64({identifier(name)})))"
        for name in names
    )
    row = store.rows(f"SELECT {asked} FROM {store.table(problem)} WHERE {_of(commit)}")[0]
    found = {}
    for name, distinct, edges in zip(names, row[::2], row[1::2], strict=True):
        unique = tuple(sorted({float(edge) for edge in edges if np.isfinite(edge)}))
        if distinct > DISCRETE and len(unique) > 1:
            found[name] = unique
    return found


def _category(store: Store, problem: str, commit: str, name: str) -> Feature:
    rows = store.rows(
        f"SELECT toString({identifier(name)}) AS value, count() AS n FROM {store.table(problem)} "
        f"WHERE {_of(commit)} AND isNotNull({identifier(name)}) GROUP BY value ORDER BY n DESC, value LIMIT {KNOWN + 1}"
    )
    values = [str(value) for value, _ in rows]
    known = None if len(values) > KNOWN else tuple(values)
    return Feature(name, values=tuple(values[:SHOWN]), known=known)
