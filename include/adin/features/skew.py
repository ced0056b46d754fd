"""Whether serving sees what training would: online answers beside the newest rows of the offline store.

Entities are drawn from the last published day of each view, or from a window, asked for online as serving does, and
replayed offline by the platform's own reader: the newest row of each that was known when the answer came, also where it
lies after the window, for nothing older is online. On-demand features are not compared; one function works them out on
both sides.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin import problem
from adin.errors import DataError, NotFoundError
from adin.features import codec, repo
from adin.features.offline import offline
from adin.features.reader import OnlineReader
from adin.features.repo import Service, View
from adin.features.writer import newest
from adin.window import Window

#: Numbers differ if they are further apart than this part of the offline one; what is no number must be equal.
TOLERANCE = 1e-6
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class FeatureSkew:
    """One feature's shares of the sampled entities.

    :param mismatch: both stores have a value, and they differ.
    :param missing: only the offline store has one; :param extra: only the online store has one.
    :param example: keys of an entity that differs, with both values; None if none does.
    """

    feature: str
    entities: int
    mismatch: float
    missing: float
    extra: float
    example: dict[str, Any] | None = None

    @property
    def worst(self) -> float:
        """Return the greatest of the shares."""
        return max(self.mismatch, self.missing, self.extra)


@dataclass(frozen=True)
class SkewReport:
    """What the check found.

    :param days: per view the days its entities were drawn from; :param seed: draws the same ones again.
    """

    service: str
    days: dict[str, tuple[str, ...]]
    seed: int
    tolerance: float
    features: tuple[FeatureSkew, ...]

    @property
    def worst(self) -> float:
        """Return the greatest share of any feature."""
        return max((each.worst for each in self.features), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def find(name: str) -> Service:
    """Return the feature service of a problem, or the service of that name.

    :raises NotFoundError: there is neither.
    """
    if name in problem.names():
        spec = problem.problem(name)
        return repo.service(spec.domain, spec.features)
    for domain in repo.domains():
        try:
            return repo.service(domain, name)
        except NotFoundError:
            continue
    raise NotFoundError(f"There is no problem and no feature service {name!r}.", "See `adin problem list`.")


def check(service: Service, *, window: Window | None = None, sample: int = 1000, seed: int | None = None) -> SkewReport:
    """Compare both stores for a sample of entities of each view.

    :param window: entities with a row published on one of its days; of a view published on none of them, on its last
        published day before. Default the last published day of each view.
    :param sample: entities a view, of all days together. :param seed: which ones; default others each time.
    :raises DataError: a view has no published day, or none before the window's end.
    :raises ServiceError: a store does not answer.
    """
    seed = secrets.randbits(31) if seed is None else seed
    days: dict[str, tuple[str, ...]] = {}
    found: list[FeatureSkew] = []
    for view in service.views:
        drawn, later = _days(view, window)
        days[view.name] = tuple(drawn)
        found += _of_view(service, view, _sampled(view, drawn, later, sample, seed))
    return SkewReport(service.name, days, seed, TOLERANCE, tuple(found))


def _days(view: View, window: Window | None) -> tuple[list[str], list[str]]:
    """Return the days to draw a view's entities from, and those that were published for later ones."""
    published = sorted(offline().partitions(view.table))
    wanted = [day.isoformat() for day in window.days] if window else published
    before = [day for day in published if day <= wanted[-1]] if wanted else []
    if not before:
        when = f" before {window.end:%Y-%m-%d}" if window else ""
        raise DataError(f"{view.table} has no published partition{when}.", "Run its features DAG first.")
    drawn = [day for day in before if window and day >= wanted[0]] or before[-1:]
    return drawn, published[len(before) :]


def _sampled(view: View, days: list[str], later: list[str], sample: int, seed: int) -> pa.Table:
    """Return the rows of some of the days' entities, those whose keys hash lowest, on these days and on later ones.

    The rows pass by in pieces and only those of the entities that may be chosen are held.
    """
    held: list[pa.Table] = []
    marks: list[np.ndarray] = []
    most = 4 * sample
    for table in offline().rows(view, days, view.columns):
        held.append(_keyed(view, table))
        marks.append(_marks(view, held[-1], seed))
        if sum(map(len, marks)) > most:
            held, marks = _lowest(held, marks, sample)
            most = max(most, 2 * len(marks[0]))
    if not sum(map(len, marks)):
        raise DataError(f"{view.table} has no row on {days[0]} .. {days[-1]}, though they are published.")
    held, marks = _lowest(held, marks, sample)
    for table in offline().rows(view, later, view.columns) if later else ():
        keyed = _keyed(view, table)
        held.append(keyed.filter(pa.array(np.isin(_marks(view, keyed, seed), marks[0]))))
    return pa.concat_tables(held, promote_options="permissive")


def _keyed(view: View, table: pa.Table) -> pa.Table:
    """Leave out rows that no store can hold: without a key or a time."""
    for name in (*view.keys, view.event):
        table = table.filter(pc.is_valid(table[name]))
    return table


def _marks(view: View, table: pa.Table, seed: int) -> np.ndarray:
    keys = [codec.cast(table[name], kind, name=name) for name, kind in view.key_types]
    mixed = (codec.hashes(keys) ^ np.uint64(seed)) * _MIX
    return (mixed ^ (mixed >> np.uint64(29))) * _MIX


def _lowest(held: list[pa.Table], marks: list[np.ndarray], sample: int) -> tuple[list[pa.Table], list[np.ndarray]]:
    table, mark = pa.concat_tables(held, promote_options="permissive"), np.concatenate(marks)
    distinct = np.unique(mark)
    chosen = mark <= distinct[min(sample, len(distinct)) - 1] if len(distinct) else mark == mark
    return [table.filter(pa.array(chosen))], [mark[chosen]]


def _of_view(service: Service, view: View, rows: pa.Table) -> Iterator[FeatureSkew]:
    """Compare a view's features for the entities of some rows."""
    keys = list({tuple(key.values()): key for key in _keys(view, rows)}.values())
    only = replace(service, views=(view,))
    online, _ = OnlineReader(only).read(keys)
    at = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
    for name in (view.event, view.created):
        rows = rows.filter(pc.fill_null(pc.less_equal(_utc(rows[name]), at), True))
    known = newest(view, rows)
    place = {tuple(key.values()): n for n, key in enumerate(_keys(view, known))}
    order = pa.array([place.get(tuple(key.values())) for key in keys], pa.int64())
    for name, kind in view.features:
        stored = codec.cast(known[name], kind, name=name).take(order)
        offline_values = codec.decode(codec.encode(stored, kind).to_pylist(), kind)
        yield _compared(f"{view.name}__{name}", keys, offline_values, online[f"{view.name}__{name}"])


def _utc(column: Any) -> Any:
    return column.cast(pa.timestamp("us", "UTC"), safe=False)


def _keys(view: View, rows: pa.Table) -> list[dict[str, Any]]:
    """Return the keys of rows as the online reader takes them; these are a sample, so a loop is short."""
    columns = {}
    for name, kind in view.key_types:
        column = codec.cast(rows[name], kind, name=name)
        columns[name] = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return list(pa.table(columns).to_pylist())


def _compared(feature: str, keys: list[dict[str, Any]], before: np.ndarray, now: np.ndarray) -> FeatureSkew:
    there, here = _present(before), _present(now)
    both = there & here
    differ = both.copy()
    differ[both] = ~_equal(before[both], now[both])
    missing, extra = there & ~here, here & ~there
    wrong = np.flatnonzero(differ | missing | extra)
    example = None
    if len(wrong):
        first = int(wrong[0])
        example = {
            **keys[first],
            "offline": _shown(before[first], there[first]),
            "online": _shown(now[first], here[first]),
        }
    mismatch, lacks, more = (float(each.mean()) if len(keys) else 0.0 for each in (differ, missing, extra))
    return FeatureSkew(feature, len(keys), mismatch, lacks, more, example)


def _present(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([value is not None for value in values], bool)
    return ~(np.isnat(values) if values.dtype.kind == "M" else np.isnan(values.astype("f8")))


def _equal(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    if "f" in (before.dtype.kind, now.dtype.kind):
        return np.isclose(now.astype("f8"), before.astype("f8"), rtol=TOLERANCE, atol=0)
    return np.asarray(before == now, bool)


def _shown(value: Any, present: bool) -> Any:
    if not present:
        return None
    return value.item() if hasattr(value, "item") and np.asarray(value).dtype.kind != "M" else str(value)
