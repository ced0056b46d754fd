"""Which rows of a request may be written, and what is wrong with the others, column by column."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.errors import NotFoundError
from adin.features import quality, repo
from adin.features.push.body import TIME, BodyError, Column, Rows
from adin.features.quality import Rule
from adin.features.repo import View
from adin.settings import settings

log = logging.getLogger(__name__)

#: More unknown columns than this are not rows of the view at all.
_UNKNOWN = 20
_SHOWN = 60
_MEANT = {
    "Bytes": "bytes (in JSON and CSV, base64)",
    "String": "text",
    "Int32": "a whole number of 32 bits",
    "Int64": "a whole number of 64 bits",
    "Float32": "a number of single precision",
    "Float64": "a number",
    "Bool": "true or false",
    "UnixTimestamp": "a time with its zone, such as 2013-09-30T10:00:00Z",
}


class Refusal(NamedTuple):
    """One thing wrong with one row.

    :param row: its place in the request, from 0.
    :param field: column, empty where it is the row as a whole.
    """

    row: int
    field: str
    reason: str


@dataclass(frozen=True)
class Target:
    """A view that rows can be pushed to.

    :param rules: rules of the domain's ``quality.py`` that can be judged by one row, by column.
    :param where: the file they stand in.
    """

    domain: str
    view: View
    rules: Mapping[str, tuple[Rule, ...]]
    where: str
    offline: bool = False

    @property
    def types(self) -> dict[str, str]:
        """Return the Feast type of each column a row must have."""
        return dict([*self.view.key_types, *self.view.features, (self.view.event, "UnixTimestamp")])


@dataclass(frozen=True)
class Checked:
    """What is wrong with a request's rows, and the good ones.

    :param good: the good rows as a table of the view, and :param places: where each stood in the request.
    """

    rows: int
    refusals: list[Refusal]
    good: pa.Table
    places: np.ndarray


def targets() -> dict[str, Target]:
    """Return the views of all domains by name."""
    found = {}
    for name in repo.domains():
        domain = repo.domain(name)
        schemas = repo.quality(name)
        where = f"{domain.path.parent.name}/{domain.path.name}/quality.py"
        for view in domain.views:
            if view.keys:
                rules = quality.compile_schema(schemas[view.name]) if view.name in schemas else []
                columns = [*view.keys, *dict(view.features), view.event]
                judged = {
                    each: tuple(rule for rule in rules if rule.breaks and rule.column == each) for each in columns
                }
                found[view.name] = Target(name, view, judged, where, offline=view.name in domain.pushed)
    return found


def target(known: Mapping[str, Target], name: str) -> Target:
    """Return one view; :raises NotFoundError: there is none of that name."""
    if name not in known:
        raise NotFoundError(f"No view {name!r}.", f"Views: {', '.join(known)}.")
    return known[name]


def check(target: Target, rows: Rows, received: datetime) -> Checked:
    """Judge the rows of a request.

    :param received: when it came; what happened later is from the future, and a row that does not say when it became
        known did so then.
    :raises BodyError: its columns have nothing to do with the view's.
    """
    judge = _Judge(target, rows)
    judge.shape()
    columns = {name: judge.column(name, kind) for name, kind in target.types.items()}
    if mark := target.view.deleted:
        columns[mark] = judge.mark(mark)
    latest = received + timedelta(seconds=settings().push_ahead)
    judge.future(target.view.event, columns[target.view.event], latest)
    created = target.view.created
    if created not in columns:
        columns[created] = judge.created(created, received)
        judge.future(created, columns[created], latest)
    judge.size(columns)
    places = np.flatnonzero(~judge.bad)
    table = pa.table(columns)
    good = table if len(places) == rows.count else table.take(pa.array(places))
    return Checked(rows.count, judge.refusals(), good, places)


class _Judge:
    """Collects what is wrong; of one field of one row, the first thing found."""

    def __init__(self, target: Target, rows: Rows) -> None:
        self.bad = np.zeros(rows.count, bool)
        self._target, self._rows = target, rows
        self._found: dict[tuple[int, str], str] = {}

    def refusals(self) -> list[Refusal]:
        """Return all that was found, by row."""
        found = sorted(self._found.items())
        return [Refusal(row, plain(field), plain(reason)) for (row, field), reason in found]

    def shape(self) -> None:
        """Refuse what is no row, and rows with columns the view does not have."""
        self._refuse("", self._rows.broken, lambda _: "is no object")
        view = self._target.view
        known = {*self._target.types, view.created, *([view.deleted] if view.deleted else [])}
        unknown = sorted(self._rows.names - known)
        if len(unknown) > _UNKNOWN:
            raise BodyError(
                f"{len(unknown)} columns are not of {view.name}, such as {_short(unknown[0])}.",
                f"Its columns: {', '.join(sorted(known))}.",
            )
        for name in unknown:
            self._refuse(name[:_SHOWN], self._rows.holders(name), lambda _: "unknown column")

    def column(self, name: str, kind: str) -> pa.Array:
        """Return a column after its types, its missing values and its rules were judged."""
        column = self._typed(name, kind)
        if name in self._target.view.keys or name == self._target.view.event:
            lacks = "missing key" if name in self._target.view.keys else "missing"
            self._refuse(name, _places(column.values.is_null()), lambda _: lacks)
        for rule in self._target.rules.get(name, ()):
            assert rule.breaks
            told = rule.name.removeprefix(f"{name} ").removeprefix("is ")
            broken = pc.fill_null(rule.breaks(column.values), False)
            self._refuse(name, _places(broken), self._breaks(name, told))
        return column.values

    def created(self, name: str, received: datetime) -> pa.Array:
        """Return when the rows became known: as they say, else now."""
        if name not in self._rows.names:
            return pa.repeat(pa.scalar(received, TIME), self._rows.count)
        column = self._typed(name, "UnixTimestamp", needed=False)
        return pc.fill_null(column.values, pa.scalar(received, TIME))

    def mark(self, name: str) -> pa.Array:
        """Return which rows are marked as deleted: none, where they do not say so."""
        if name not in self._rows.names:
            return pa.repeat(pa.scalar(False), self._rows.count)
        return pc.fill_null(self._typed(name, "Bool", needed=False).values, False)

    def future(self, name: str, times: pa.Array, latest: datetime) -> None:
        """Refuse times that have not come."""
        late = pc.fill_null(pc.greater(times, pa.scalar(latest, TIME)), False)
        self._refuse(name, _places(late), lambda row: f"{moment(times[row].value)} is in the future")

    def size(self, columns: Mapping[str, pa.Array]) -> None:
        """Refuse rows with too many bytes."""
        sizes = np.zeros(self._rows.count, "i8")
        for values in columns.values():
            text = pa.types.is_string(values.type) or pa.types.is_binary(values.type)
            sizes += np.asarray(pc.fill_null(pc.binary_length(values), 0)) if text else 8
        most = settings().push_row_bytes
        self._refuse("", np.flatnonzero(sizes > most), lambda row: f"{sizes[row]} bytes, at most {most} are taken")

    def _typed(self, name: str, kind: str, *, needed: bool = True) -> Column:
        column = self._rows.column(name, kind)
        if needed:
            lacks = "missing key" if name in self._target.view.keys else "missing"
            self._refuse(name, column.missing, lambda _: lacks)
        meant = _MEANT[kind]
        self._refuse(name, column.wrong, lambda row: f"{_short(self._rows.given(name, row))} is not {meant}")
        return column

    def _breaks(self, name: str, told: str) -> Callable[[int], str]:
        where = self._target.where
        return lambda row: f"{_short(self._rows.given(name, row))} is {told} (rule in {where})"

    def _refuse(self, field: str, places: np.ndarray, reason: Callable[[int], str]) -> None:
        for row in places.tolist():
            # what is refused as a whole has no fields to speak of
            if (row, "") not in self._found or not field:
                self._found.setdefault((row, field), reason(row))
        self.bad[places] = True


def _places(mask: pa.Array) -> np.ndarray:
    return np.flatnonzero(np.asarray(mask))


def plain(text: str) -> str:
    """Return a text without what neither JSON answers nor PostgreSQL can hold: halves of characters, and zeros."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def moment(micros: int) -> str:
    """Return a time, in microseconds since 1970, as people write it."""
    try:
        text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros))).isoformat()
    except OverflowError:
        return f"{int(micros)} microseconds since 1970"
    return text.replace("+00:00", "Z")


def schema(target: Target) -> dict[str, Any]:
    """Return what a row of a view must be, for people and programs that push."""
    view, limits = target.view, settings()

    def described(name: str, kind: str) -> dict[str, Any]:
        rules = [rule.name.removeprefix(f"{name} ") for rule in target.rules.get(name, ())]
        return {"name": name, "type": kind, "meaning": _MEANT[kind], "rules": rules}

    event = described(view.event, "UnixTimestamp")
    created = {**described(view.created, "UnixTimestamp"), "default": "when the request came"}
    return {
        "view": view.name,
        "domain": target.domain,
        "keys": [described(*each) for each in view.key_types],
        "features": [described(*each) for each in view.features],
        "event_time": event,
        "created_time": created if view.created != view.event else None,
        "deleted": {**described(view.deleted, "Bool"), "default": False} if view.deleted else None,
        "limits": {
            "bytes": limits.push_bytes,
            "rows": limits.push_rows,
            "row_bytes": limits.push_row_bytes,
            "rows_per_second": limits.push_rate,
            "requests_per_second": limits.push_requests,
            "seconds_ahead": limits.push_ahead,
        },
    }
