"""Rows into the online store: the newest row of each entity, unless a newer one is there.

A row replaces the stored one if its event time is later, or the same but it became known later, or all is the same but
its values: then the table was made anew by another rule. Of rows given together with the same times that one counts
which training takes (:mod:`.ties`). An older row never overwrites. Nulls are values. A row marked as deleted takes the
view's values of its entity away and leaves a mark, so that an older row does not bring them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.connections import Connection, connection
from adin.errors import DataError
from adin.features import codec, shards, ties
from adin.features.repo import View
from adin.settings import settings

#: Rows that may wait before they are reduced to the newest of each key.
_WAITING = 1_000_000
#: A day may have so many times ``online_held`` entities before what is held is handed on in its midst.
_MOST = 4
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class WriteReport:
    """What a write did.

    :param rows: rows given, :param written: entities changed, :param skipped: rows that were not the newest.
    """

    rows: int
    written: int
    skipped: int


@dataclass(frozen=True)
class _Rows:
    """Rows of a view, cast, with what decides which is newest."""

    keys: pa.Array
    values: dict[str, pa.Array]
    event: np.ndarray
    created: np.ndarray
    hashes: np.ndarray

    @property
    def deleted(self) -> np.ndarray:
        """Return which rows are marked as deleted."""
        return np.asarray(self.hashes == codec.DELETED)

    def take(self, places: np.ndarray) -> _Rows:
        """Return some of the rows."""
        index = pa.array(places)
        values = {name: column.take(index) for name, column in self.values.items()}
        return _Rows(
            self.keys.take(index), values, self.event[places], self.created[places], self.hashes[places]
        )  # fmt: skip


def write(
    view: View,
    table: pa.Table,
    *,
    conn: Connection | None = None,
    project: str | None = None,
    over_older: bool = False,
    on_batch: Callable[[int], None] = lambda _: None,
) -> WriteReport:
    """Write the newest row of each entity to Redis in Feast's format, unless a newer one is there.

    Written twice, nothing changes. Rows without a key are left out, as they stand for no entity.

    :param table: :attr:`View.columns`, more than one row a key if need be.
    :param conn: the online store; default the connection ``feast``.
    :param project: Feast's project; default the setting.
    :param over_older: replace only rows of earlier times, not those of the same times with other values.
    :param on_batch: called with the number of rows after each batch.
    :raises DataError: a column is missing or does not fit its type.
    :raises ServiceError: Redis does not answer; write again, what was written already stays right.
    """
    given = keyed(view, table)
    rows = _rows(view, given, project)
    places = _newest_places(view, given, rows)
    conn, size, written = conn or connection("feast"), settings().online_batch, 0

    def write_batch(start: int) -> tuple[int, int]:
        with shards.borrowed(conn) as session:
            batch = rows.take(places[start : start + size])
            newer, _ = _newer(view, batch, session, over_older=over_older)
            if newer.any():
                _send(view, batch if newer.all() else batch.take(np.flatnonzero(newer)), session)
            if (view.online_ttl or view.keeps) and not newer.all():
                _mend_expiry(view, batch.take(np.flatnonzero(~newer)), session)
            return len(newer), int(newer.sum())

    starts = range(0, len(places), size)
    # one batch is encoded while Redis works on another; each key is in one batch only
    for taken, changed in _side_by_side(write_batch, starts, min(settings().online_lanes, len(starts))):
        written += changed
        on_batch(taken)
    return WriteReport(table.num_rows, written, table.num_rows - written)


def _side_by_side(work: Callable[[int], tuple[int, int]], starts: range, lanes: int) -> Iterator[tuple[int, int]]:
    """Do pieces of work, some at a time, and return their results in order; the first failure ends it."""
    if lanes < 2:
        yield from map(work, starts)
        return
    pool = ThreadPoolExecutor(lanes)
    try:
        yield from pool.map(work, starts)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Compared:
    """Rows beside what is stored of their entities.

    :param stored: stored event time of each row's entity, microseconds; the smallest integer where there is none.
    :param older: rows that happened before what is stored.
    """

    view: View
    stored: np.ndarray
    older: np.ndarray
    _changes: _Rows


def compare(view: View, table: pa.Table, *, session: shards.Shards) -> Compared:
    """Compare rows, none without a key, with what is stored; nothing is written.

    :raises DataError: a column is missing or does not fit its type.
    :raises ServiceError: Redis does not answer.
    """
    rows = _rows(view, table)
    places = _newest_places(view, table, rows)
    found = [_newer(view, batch, session) for batch in _batches(rows, places)]
    newer, events = (np.concatenate(each) for each in zip(*found, strict=True))
    # the newest rows stand in the order of the codes
    stored = events[np.asarray(rows.keys.dictionary_encode().indices)]
    return Compared(view, stored, rows.event < stored, rows.take(places[newer]))


def put(compared: Compared, *, session: shards.Shards) -> int:
    """Write those of the rows that are the newest of their entity and newer than what was stored; return how many.

    :raises ServiceError: Redis does not answer; some may be written.
    """
    changes = compared._changes
    for batch in _batches(changes, np.arange(len(changes.event))):
        _send(compared.view, batch, session)
    return len(changes.event)


class Newest:
    """Takes tables of a view's rows, and hands on the newest row of each key; holds a bounded number of rows.

    What it hands on in one table is unique by key. Beyond the setting ``online_held`` it hands on what it has once a
    day's rows have ended: a key may then come again, which the writer sorts out, but not with the same times. Beyond
    four times as much it does not wait for that: of tied rows the later one given stays.

    :param hand_on: takes a table of rows.
    :param project: Feast's project; default the setting.
    """

    def __init__(self, view: View, hand_on: Callable[[pa.Table], None], project: str | None = None) -> None:
        self._view = view
        self._project = project
        self._hand_on = hand_on
        self._held: list[pa.Table] = []
        self._waiting = 0
        self._newest = 0
        self._day = 0

    def add(self, table: pa.Table) -> None:
        """Take rows, day by day; those without a key are dropped."""
        rows = keyed(self._view, table)
        if not rows.num_rows:
            return
        day = int(_micros(rows[self._view.event].slice(0, 1))[0]) // _DAY
        if self._newest > settings().online_held * (1 if day != self._day else _MOST):
            self.finish()
        self._day = day
        self._held.append(rows)
        self._waiting += rows.num_rows
        if self._waiting > max(_WAITING, self._newest):
            self._reduce()

    def finish(self) -> None:
        """Hand on what is held."""
        self._reduce()
        if self._newest:
            self._hand_on(self._held[0])
        self._held, self._newest = [], 0

    def _reduce(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held, promote_options="permissive")
        places = _newest_places(self._view, table, _rows(self._view, table, self._project))
        self._held = [table if len(places) == len(table) else table.take(pa.array(places))]
        self._newest, self._waiting = len(places), 0


def keyed(view: View, table: pa.Table) -> pa.Table:
    """Return the rows that have a key and a time; :raises DataError: a column is missing."""
    if missing := [name for name in view.columns if name not in table.column_names]:
        raise DataError(f"Rows of {view.name} lack the columns {', '.join(missing)}.")
    every = pc.is_valid(table[view.event])
    for name in view.keys:
        every = pc.and_(every, pc.is_valid(table[name]))
    return table if pc.all(every).as_py() else table.filter(every)


def newest(view: View, table: pa.Table) -> pa.Table:
    """Return the row of each key that would be online after all these were written; none of a deleted entity."""
    rows = keyed(view, table)
    found = _rows(view, rows)
    places = _newest_places(view, rows, found)
    return rows.take(pa.array(places[~found.deleted[places]]))


def _rows(view: View, table: pa.Table, project: str | None = None) -> _Rows:
    """Cast a table's columns and encode its keys."""
    keys = {name: (kind, codec.cast(table[name], kind, name=name)) for name, kind in view.key_types}
    values = {name: codec.cast(table[name], kind, name=name) for name, kind in view.features}
    hashes = np.minimum(codec.hashes(list(values.values())), codec.DELETED - 1)
    if view.deleted:
        marked = codec.cast(table[view.deleted], "Bool", name=view.deleted).fill_null(False)
        hashes = np.where(np.asarray(marked), codec.DELETED, hashes)
    event, created = _micros(table[view.event]), _micros(table[view.created])
    created = np.where(created == codec.NO_TIME, event, created)
    return _Rows(codec.entity_keys(keys, project or settings().project), values, event, created, hashes)


def _micros(column: Any) -> np.ndarray:
    times = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_timestamp(times.type):
        raise DataError(f"Times are needed, not {times.type}.")
    micros = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
    return np.asarray(micros.fill_null(codec.NO_TIME))


def _newest_places(view: View, table: pa.Table, rows: _Rows) -> np.ndarray:
    """Return the place of the newest row of each key.

    :param table: the same rows as they were given: where all times are the same, uncast values decide as in training.
    """
    found = rows.keys.dictionary_encode()
    if len(found.dictionary) == len(found):
        return np.arange(len(found))
    codes = np.asarray(found.indices)
    order = ties.ordered((codes, rows.event, rows.created), ties.deciding(view, table))
    last = np.flatnonzero(np.diff(codes[order], append=-1))
    return order[last]


def _batches(rows: _Rows, places: np.ndarray) -> Iterator[_Rows]:
    size = settings().online_batch
    for start in range(0, len(places), size):
        yield rows.take(places[start : start + size])


def _send(view: View, rows: _Rows, session: shards.Shards) -> None:
    """Write rows, and take away those marked as deleted."""
    deleted = rows.deleted
    for part, act in ((deleted, _bury), (~deleted, _put)):
        if part.any():
            some = rows if part.all() else rows.take(np.flatnonzero(part))
            session.exchange(some.keys, [*act(view, some), *_expire(view, some)])


def _put(view: View, rows: _Rows) -> Iterator[pa.Array]:
    """Return the command that writes each row: one, so that nobody sees half of it."""
    fields: list[Any] = [_time(view), codec.encode_times(rows.event)]
    fields += [_stamp(view), codec.encode_stamps(rows.created, rows.hashes)]
    for name, kind in view.features:
        fields += [codec.field_name(view.name, name), codec.encode(rows.values[name], kind)]
    yield codec.commands(b"HSET", [rows.keys, *fields])


def _bury(view: View, rows: _Rows) -> Iterator[pa.Array]:
    """Return the commands that delete each row. Killed between the two, the next run does both again."""
    fields = [_time(view), *(codec.field_name(view.name, name) for name, _ in view.features)]
    yield codec.commands(b"HDEL", [rows.keys, *fields])
    yield codec.commands(b"HSET", [rows.keys, _stamp(view), codec.encode_tombstones(rows.created, rows.event)])


def _expire(view: View, rows: _Rows, *when: bytes) -> Iterator[pa.Array]:
    if view.online_ttl:
        yield codec.commands(b"PEXPIRE", [rows.keys, b"%d" % int(view.online_ttl.total_seconds() * 1000), *when])
    elif view.keeps:
        yield codec.commands(b"PERSIST", [rows.keys])


def _mend_expiry(view: View, rows: _Rows, session: shards.Shards) -> None:
    """Let entities expire or stay that do not: a write was killed before it said so, or the view's setting is new."""
    session.exchange(rows.keys, list(_expire(view, rows, b"NX")))


def _newer(
    view: View, rows: _Rows, session: shards.Shards, *, over_older: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are newer than what is stored, and the event times stored."""
    stored = session.exchange(rows.keys, [codec.commands(b"HMGET", [rows.keys, _time(view), _stamp(view)])])
    event = codec.decode_times([reply[0] for reply in stored])
    created, hashes, deleted = codec.decode_stamps([reply[1] for reply in stored])
    # a mark beside a time is an older one: Feast's own writer, which does not know marks, wrote a row since
    outdated = (event != codec.NO_TIME) & (deleted != codec.NO_TIME)
    created = np.where(outdated, codec.NO_TIME, created)
    event = np.where(event == codec.NO_TIME, deleted, event)
    same = rows.event == event
    remade = (rows.created == created) & (rows.hashes != hashes) & (not over_older)
    corrected = same & ((rows.created > created) | remade)
    return np.asarray((rows.event > event) | corrected), event


def _time(view: View) -> bytes:
    return f"_ts:{view.name}".encode()


def _stamp(view: View) -> bytes:
    return f"_created:{view.name}".encode()
