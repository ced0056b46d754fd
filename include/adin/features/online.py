"""The online store: write what is newest, and load what was published.

A row replaces the stored one if its event time is later, or the same but it became known later, or all is the same but
its values: then the table was made anew by another rule. An older row never overwrites. Nulls are values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.errors import DataError
from adin.features import codec, wire
from adin.features.reader import OnlineReader, coverage
from adin.features.repo import View
from adin.settings import settings
from adin.window import Window

__all__ = ["MaterializeReport", "OnlineReader", "WriteReport", "coverage", "materialize", "write"]


@dataclass(frozen=True)
class WriteReport:
    """What a write did.

    :param rows: rows given, :param written: entities changed, :param skipped: rows that were not the newest.
    """

    rows: int
    written: int
    skipped: int


@dataclass(frozen=True)
class MaterializeReport:
    """What a load of a window did.

    :param keys: entities with a row in the window, :param written: of these, changed.
    """

    view: str
    window: str
    days: int
    rows: int
    keys: int
    written: int


@dataclass(frozen=True)
class _Rows:
    """Rows of a view, cast, with what decides which is newest."""

    keys: pa.Array
    values: dict[str, pa.Array]
    event: np.ndarray
    created: np.ndarray
    hashes: np.ndarray

    def take(self, places: np.ndarray) -> _Rows:
        """Return some of the rows."""
        index = pa.array(places)
        values = {name: column.take(index) for name, column in self.values.items()}
        return _Rows(
            self.keys.take(index), values, self.event[places], self.created[places], self.hashes[places]
        )  # fmt: skip


def write(view: View, table: pa.Table, *, session: wire.Session | None = None) -> WriteReport:
    """Write the newest row of each entity to Redis in Feast's format, unless a newer one is there.

    Written twice, nothing changes. Rows without a key are left out, as they stand for no entity.

    :param table: key, feature, event time and created time columns of the view, more than one row a key if need be.
    :raises DataError: a column is missing or does not fit its type.
    :raises ServiceError: Redis does not answer; write again, what was written already stays right.
    """
    newest = _newest(_rows(view, table))
    with session or wire.Session() as opened:
        written = sum(_write(view, batch, opened) for batch in _batches(newest))
    return WriteReport(table.num_rows, written, table.num_rows - written)


def materialize(domain: str, view: str, window: Window | None = None) -> MaterializeReport:
    """Load the published partitions of a window into Redis and record the interval in Feast's registry.

    :param window: default all days published, as for a view that is new or has a new feature.
    :raises NotFoundError: the domain has no such view.
    :raises DataError: the window has no published partition, and the view is not one that changes on few days.
    """
    from adin.features import repo, store
    from adin.features.offline import offline

    spec = repo.domain(domain)
    found = spec.view(view)
    published = offline().partitions(found.table)
    if window is None:
        if not published:
            raise DataError(f"{found.table} has no published partition.", f"Run features__{domain} first.")
        window = Window(_midnight(min(published)), _midnight(max(published)) + timedelta(days=1))
    days = [day for each in window.days if (day := each.isoformat()) in published]
    if not days and not spec.static(view):
        raise DataError(
            f"{found.table} has no published partition in {window}.", f"Run features__{domain} for the window first."
        )
    newest, rows = _newest_of_days(found, days)
    written = 0
    if newest is not None:
        with wire.Session() as session:
            written = sum(_write(found, batch, session) for batch in _batches(newest))
    store.record_interval(view, window)
    return MaterializeReport(view, str(window), len(days), rows, len(newest.keys) if newest else 0, written)


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _newest_of_days(view: View, days: list[str]) -> tuple[_Rows | None, int]:
    """Return the newest row of each key over days, holding a bounded number of other rows at a time."""
    from adin.features.offline import offline

    columns = [*view.keys, *(name for name, _ in view.features), view.event, view.created]
    held: list[pa.Table] = []
    newest: pa.Table | None = None
    rows = waiting = 0
    for table in offline().rows(view, days, list(dict.fromkeys(columns))):
        held.append(table)
        rows += table.num_rows
        waiting += table.num_rows
        if waiting > max(1_000_000, newest.num_rows if newest else 0):
            newest = _reduced(view, [*held, newest] if newest else held)
            held, waiting = [], 0
    if held or newest:
        newest = _reduced(view, [*held, newest] if newest else held)
    return (_rows(view, newest) if newest else None), rows


def _reduced(view: View, tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables, promote_options="permissive")
    rows = _rows(view, table, keep=True)
    return table.take(pa.array(_newest_places(rows)))


def newest(view: View, table: pa.Table) -> pa.Table:
    """Return the row of each key that would be online: the newest, as :func:`write` has it."""
    return _reduced(view, [table])


def _rows(view: View, table: pa.Table, *, keep: bool = False) -> _Rows:
    """Cast a table's columns and encode its keys; rows without a key are dropped unless ``keep``."""
    wanted = [*view.keys, *(name for name, _ in view.features), view.event, view.created]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise DataError(f"Rows of {view.name} lack the columns {', '.join(missing)}.")
    if not keep:
        keyed = [pc.is_valid(table[name]) for name in (*view.keys, view.event)]
        every = keyed[0]
        for each in keyed[1:]:
            every = pc.and_(every, each)
        table = table.filter(every)
    keys = {name: (kind, codec.cast(table[name], kind, name=name)) for name, kind in view.key_types}
    values = {name: codec.cast(table[name], kind, name=name) for name, kind in view.features}
    event = _micros(table[view.event])
    created = _micros(table[view.created])
    project = settings().project
    return _Rows(codec.entity_keys(keys, project), values, event, created, codec.hashes(list(values.values())))


def _micros(column: Any) -> np.ndarray:
    times = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_timestamp(times.type):
        raise DataError(f"Times are needed, not {times.type}.")
    micros = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
    return np.asarray(micros.fill_null(np.iinfo("i8").min))


def _newest_places(rows: _Rows) -> np.ndarray:
    """Return the place of the newest row of each key; of equals, that with the greatest hash."""
    codes = np.asarray(rows.keys.dictionary_encode().indices)
    order = np.lexsort((rows.hashes, rows.created, rows.event, codes))
    last = np.flatnonzero(np.diff(codes[order], append=-1))
    return order[last]


def _newest(rows: _Rows) -> _Rows:
    places = _newest_places(rows)
    return rows if len(places) == len(rows.event) else rows.take(places)


def _batches(rows: _Rows) -> Iterator[_Rows]:
    size = settings().online_batch
    for start in range(0, len(rows.event), size):
        yield rows.take(np.arange(start, min(start + size, len(rows.event))))


def _write(view: View, rows: _Rows, session: wire.Session) -> int:
    """Write those of a batch that are newer than what is stored and return how many."""
    newer = _newer(view, rows, session)
    if not newer.any():
        return 0
    chosen = rows if newer.all() else rows.take(np.flatnonzero(newer))
    fields: list[Any] = [f"_ts:{view.name}".encode(), codec.encode_times(chosen.event)]
    fields += [f"_created:{view.name}".encode(), codec.encode_stamps(chosen.created, chosen.hashes)]
    for name, kind in view.features:
        fields += [codec.field_name(view.name, name), codec.encode(chosen.values[name], kind)]
    session.exchange(_commands(b"HSET", chosen.keys, fields), len(chosen.event))
    return len(chosen.event)


def _newer(view: View, rows: _Rows, session: wire.Session) -> np.ndarray:
    asked = [f"_ts:{view.name}".encode(), f"_created:{view.name}".encode()]
    stored = session.exchange(_commands(b"HMGET", rows.keys, asked), len(rows.event))
    event = codec.decode_times([reply[0] for reply in stored])
    created, hashes = codec.decode_stamps([reply[1] for reply in stored])
    same = rows.event == event
    corrected = same & ((rows.created > created) | ((rows.created == created) & (rows.hashes != hashes)))
    return np.asarray((rows.event > event) | corrected)


def _commands(name: bytes, keys: pa.Array, arguments: list[Any]) -> bytes:
    """Return one command a row: its key, then the arguments, of which each is a column or the same for all rows."""
    head = b"*%d\r\n" % (2 + len(arguments)) + codec.with_length(name)
    joined = codec.join([head, codec.with_length(keys), *(codec.with_length(each) for each in arguments)])
    return bytes(joined.buffers()[2])
