"""What serving reads: the features of entities, all views in one round trip."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adin.connections import Connection
from adin.errors import ConfigError, DataError, ServiceError
from adin.features import codec, shards, wire
from adin.features.repo import Service, View
from adin.settings import settings

#: What :func:`codec.decode_times` gives for no time.
_NEVER = np.iinfo("i8").min
_SCAN = 1000
#: Entities of a view on one server after which a feature that none of them has counts as not online.
_ENOUGH = 10_000


@dataclass(frozen=True)
class _Group:
    """Views with the same keys; they share one Redis hash an entity."""

    keys: tuple[tuple[str, str], ...]
    views: tuple[View, ...]
    fields: tuple[bytes, ...]


class OnlineReader:
    """Reads the features of a service; may be used by many threads, each has a connection of its own.

    :param service: its views and every feature of them; on-demand views are the caller's.
    :param conn: default the connection ``feast``.
    """

    def __init__(self, service: Service, conn: Connection | None = None) -> None:
        self.service = service
        self._conn = conn
        self._own = threading.local()
        self._groups = _groups(service)
        self._project = settings().project

    def read(
        self, keys: Sequence[Mapping[str, Any]], timeout: float | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the features and, per view, the event times of entities, one row each in the order asked.

        :param keys: join keys of each row; others are ignored, a key that is None stands for no entity.
        :param timeout: seconds to wait for Redis.
        :returns: columns by full name ``view__feature`` with NaN or None for null, and per view event times in
            microseconds (``datetime64[us]``), NaT where the entity is unknown.
        :raises DataError: a key is missing or of another type.
        :raises ServiceError: Redis does not answer in time.
        """
        asked = [_Asked(group, keys, self._project) for group in self._groups]
        names = [key for each in asked for key in each.unique]
        replies = self._exchange(names, [command for each in asked for command in each.commands], timeout)
        columns: dict[str, np.ndarray] = {}
        times: dict[str, np.ndarray] = {}
        start = 0
        for each in asked:
            _decode(each, replies[start : start + len(each.unique)], columns, times)
            start += len(each.unique)
        return columns, times

    def close(self) -> None:
        """Close this thread's connection."""
        if own := getattr(self._own, "shards", None):
            own.close()

    def _exchange(self, keys: list[bytes], commands: list[bytes], timeout: float | None) -> list[Any]:
        if not keys:
            return []
        own: shards.Shards | None = getattr(self._own, "shards", None)
        fresh = own is None
        if own is None:
            own = self._own.shards = shards.Shards(self._conn)
        try:
            return own.exchange(keys, [commands], timeout=timeout)
        except ServiceError as error:
            if fresh or "timed out" in str(error):
                raise
        # a server may have been restarted since the last request, or another have taken its place
        return own.exchange(keys, [commands], timeout=timeout)


class _Asked:
    """One group's part of a request: each entity once, and which row wants which."""

    def __init__(self, group: _Group, keys: Sequence[Mapping[str, Any]], project: str) -> None:
        self.group = group
        self.unique: dict[bytes, int] = {}
        self.rows = [self._place(row, project) for row in keys]
        tail = b"".join(b"$%d\r\n%s\r\n" % (len(field), field) for field in group.fields)
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(group.fields))
        self.commands = [b"%s$%d\r\n%s\r\n%s" % (head, len(key), key, tail) for key in self.unique]

    def _place(self, row: Mapping[str, Any], project: str) -> int:
        """Return the place of the row's entity among the unique ones, -1 if it has none."""
        values: dict[str, tuple[str, Any]] = {}
        for name, kind in self.group.keys:
            if name not in row:
                raise DataError(f"The entity key {name} is missing.", f"Needed: {', '.join(dict(self.group.keys))}.")
            if row[name] is None:
                return -1
            values[name] = (kind, _checked(name, kind, row[name]))
        return self.unique.setdefault(codec.entity_key(values, project), len(self.unique))


def _checked(name: str, kind: str, value: Any) -> Any:
    if kind == "String" and not isinstance(value, str):
        raise DataError(f"The entity key {name} must be text, not {value!r}.")
    if kind in ("Int32", "Int64"):
        bits = int(kind[3:])
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not -(1 << bits - 1) <= int(value) < 1 << bits - 1:
            raise DataError(f"The entity key {name} must be a whole number of {bits} bits, not {value!r}.")
    return value


def _decode(asked: _Asked, replies: list[Any], columns: dict[str, np.ndarray], times: dict[str, np.ndarray]) -> None:
    place = 0
    nothing = [None] * len(asked.group.fields)
    rows = [nothing if at < 0 else replies[at] for at in asked.rows]
    for view in asked.group.views:
        micros = codec.decode_times([row[place] for row in rows])
        known = micros != _NEVER
        times[view.name] = np.where(known, micros, 0).astype("datetime64[us]")
        times[view.name][~known] = np.datetime64("NaT")
        for offset, (name, kind) in enumerate(view.features, place + 1):
            columns[f"{view.name}__{name}"] = codec.decode([row[offset] for row in rows], kind)
        place += 1 + len(view.features)


def _groups(service: Service) -> list[_Group]:
    by_keys: dict[tuple[tuple[str, str], ...], list[View]] = {}
    for view in service.views:
        by_keys.setdefault(tuple(sorted(view.key_types)), []).append(view)
    groups = []
    for keys, views in by_keys.items():
        fields: list[bytes] = []
        for view in views:
            fields += [f"_ts:{view.name}".encode(), *(codec.field_name(view.name, name) for name, _ in view.features)]
        if len(set(fields)) < len(fields):
            raise ConfigError(f"Two features of {', '.join(view.name for view in views)} share a hash field.")
        groups.append(_Group(keys, tuple(views), tuple(fields)))
    return groups


def coverage(service: Service, columns: Collection[str] | None = None, *, conn: Connection | None = None) -> list[str]:
    """Return what is not online of what some columns of a service need.

    :param columns: full names, ``view__feature``. Default all of the service.
    :returns: views of which nothing is, and ``view__feature`` for features that the entities met lack: they were loaded
        before there was the feature. A stored null is no lack.
    """
    columns = service.columns if columns is None else columns
    wanted = {view.name: _wanted(view, names) for view in service.views if (names := service.taken(view, columns))}
    lacking = {name: list(fields.values()) for name, fields in wanted.items()}
    with shards.Shards(conn) as opened:
        for group in _groups(service):
            for session in opened.primaries():
                _look(session, group, wanted, lacking)
    return [each for name, lacks in lacking.items() for each in ([name] if name in lacks else lacks)]


def _wanted(view: View, names: Iterable[str]) -> dict[bytes, str]:
    """Return the hash fields an entity must have, with what each stands for: the view itself, then its features."""
    features = {codec.field_name(view.name, name): f"{view.name}__{name}" for name in names}
    return {f"_ts:{view.name}".encode(): view.name, **features}


def _look(
    session: wire.Session, group: _Group, wanted: dict[str, dict[bytes, str]], lacking: dict[str, list[str]]
) -> None:
    """Walk through a server's keys of a group, and keep for each view what the fullest entity lacks.

    The walk ends where nothing is lacking; a feature that many entities of its view lack is looked for no longer.
    """
    met = {view.name: 0 for view in group.views if lacking.get(view.name)}
    pattern = codec.key_pattern([name for name, _ in group.keys], settings().project)
    cursor = b"0"
    while met:
        scan = wire.command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN)
        cursor, keys = session.exchange(scan, 1)[0]
        for name in met:
            asked = b"".join(wire.command(b"HMGET", key, *wanted[name]) for key in keys)
            for values in session.exchange(asked, len(keys)):
                met[name] += values[0] is not None
                lacks = [each for each, value in zip(wanted[name].values(), values, strict=True) if value is None]
                lacking[name] = min(lacking[name], lacks, key=len)
        met = {name: entities for name, entities in met.items() if lacking[name] and entities < _ENOUGH}
        if cursor == b"0":
            break
