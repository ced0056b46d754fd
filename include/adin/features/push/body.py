"""The rows of a request as columns: JSON, CSV or an Arrow stream.

A column is converted as a whole. Only where that fails is it halved, again and again, until the values that do not fit
stand alone; so one wrong value costs little and good ones are never looked at one by one.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.errors import DataError, TooLargeError
from adin.features import codec
from adin.settings import settings

if TYPE_CHECKING:
    from pyarrow import csv

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
TIME = pa.timestamp("us", "UTC")
_MISSING: Any = object()
_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError, TypeError)


class BodyError(DataError):
    """A request cannot be read at all."""


@dataclass(frozen=True)
class Column:
    """One column in the type it is judged in; values that are wrong or missing are null.

    :param wrong: places of values which do not fit, and :param missing: of rows without the column.
    """

    values: pa.Array
    wrong: np.ndarray
    missing: np.ndarray


class Rows(Protocol):
    """The rows of a request.

    :param broken: places of what is no row at all.
    """

    count: int
    names: frozenset[str]
    broken: np.ndarray

    def column(self, name: str, kind: str) -> Column:
        """Return a column as a Feast type."""

    def holders(self, name: str) -> np.ndarray:
        """Return the places of the rows that have a column."""

    def given(self, name: str, row: int) -> Any:
        """Return a value as it was given."""


def read(content_type: str, body: bytes) -> Rows:
    """Return the rows of a request's body.

    :raises BodyError: it cannot be read as what it says it is, or has no row. :raises TooLargeError: it has too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    readers: Mapping[str, Callable[[bytes], Rows]] = {JSON: _json, CSV: _csv, ARROW: _arrow}
    if kind not in readers:
        raise BodyError(f"The body is of type {kind or 'nothing'}.", f"Send {', '.join(readers)}.")
    rows = readers[kind](body)
    if not rows.count:
        raise BodyError("The body has no row.", "Send at least one.")
    if rows.count > (most := settings().push_rows):
        raise TooLargeError(f"The body has {rows.count} rows, more than {most}.", "Send fewer at a time.")
    return rows


class JsonRows:
    """Rows that came as JSON objects."""

    def __init__(self, rows: list[Any]) -> None:
        self.count = len(rows)
        odd = set(map(type, rows)) != {dict}
        places = [place for place, row in enumerate(rows) if type(row) is not dict] if odd else []
        self.broken = np.array(places, int)
        self._rows: list[dict[str, Any]] = [row if type(row) is dict else {} for row in rows] if odd else rows
        self.names = frozenset(set().union(*self._rows))

    def column(self, name: str, kind: str) -> Column:
        """Return a column as a Feast type."""
        missing = np.array([], int)
        try:
            values = list(map(itemgetter(name), self._rows))
        except KeyError:
            values = [row.get(name, _MISSING) for row in self._rows]
            missing = np.array([place for place, value in enumerate(values) if value is _MISSING], int)
            values = [None if value is _MISSING else value for value in values]
        made, wrong = _fitted(values, lambda some: _of_json(some, kind), wide(kind))
        return Column(made, wrong, missing)

    def holders(self, name: str) -> np.ndarray:
        """Return the places of the rows that have a column."""
        return np.array([place for place, row in enumerate(self._rows) if name in row], int)

    def given(self, name: str, row: int) -> Any:
        """Return a value as it was given."""
        return self._rows[row].get(name)


class TableRows:
    """Rows that came as columns.

    :param text: all columns are text of which the values are to be read, as in CSV.
    """

    def __init__(self, table: pa.Table, *, text: bool) -> None:
        self.count = table.num_rows
        self.names = frozenset(table.column_names)
        self.broken = np.array([], int)
        if len(self.names) < table.num_columns:
            raise BodyError("Two columns have the same name.", "Send each column once.")
        self._table = table.combine_chunks()
        self._text = text

    def column(self, name: str, kind: str) -> Column:
        """Return a column as a Feast type."""
        nothing = np.array([], int)
        if name not in self.names:
            return Column(pa.nulls(self.count, wide(kind)), nothing, np.arange(self.count))
        values = self._whole(name)
        if not pa.types.is_null(values.type) and not _family(values.type, kind) and not self._text:
            return Column(pa.nulls(self.count, wide(kind)), np.flatnonzero(np.asarray(values.is_valid())), nothing)
        made, wrong = _fitted(values, lambda some: _of_arrow(some, kind), wide(kind))
        return Column(made, wrong, nothing)

    def holders(self, name: str) -> np.ndarray:
        """Return the places of the rows that have a column."""
        return np.flatnonzero(np.asarray(self._whole(name).is_valid()))

    def given(self, name: str, row: int) -> Any:
        """Return a value as it was given."""
        return self._table[name][row].as_py() if name in self.names else None

    def _whole(self, name: str) -> pa.Array:
        column = self._table[name]
        return column.chunk(0) if column.num_chunks else pa.nulls(0, column.type)


def wide(kind: str) -> pa.DataType:
    """Return the Arrow type a Feast type is judged in: what was given, not what is kept of it."""
    if kind in ("Float32", "Float64"):
        return pa.float64()
    return TIME if kind == "UnixTimestamp" else codec.kind(kind).arrow


def _json(body: bytes) -> Rows:
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"The body is no JSON: {error}.") from None
    rows = found.get("rows") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise BodyError("The body holds no rows.", 'Send {"rows": [{...}, ...]} or the list alone.')
    return JsonRows(rows)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; write null")


def _csv(body: bytes) -> Rows:
    from pyarrow import csv

    try:
        names = csv.open_csv(pa.BufferReader(body)).schema.names
        return TableRows(csv.read_csv(pa.BufferReader(body), convert_options=as_text(names)), text=True)
    except pa.ArrowException as error:
        raise BodyError(f"The body is no CSV: {error}.") from None


def as_text(names: list[str]) -> csv.ConvertOptions:
    """Return how CSV is read as it stands: nothing is null but what is empty and not in quotes."""
    from pyarrow import csv

    return csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def _arrow(body: bytes) -> Rows:
    try:
        _plain(body)
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, ValueError) as error:
        raise BodyError(f"The body is no Arrow stream: {error}.") from None
    return TableRows(table, text=False)


def _plain(body: bytes) -> None:
    """Refuse what could be far larger in memory than in the request: compressed or dictionary-encoded batches.

    Arrow does not say before it reads, so its own description of each message, a FlatBuffer, is looked at.
    """
    for message in pa.ipc.MessageReader.open_stream(body):
        told = message.metadata.to_pybytes()
        root = struct.unpack_from("<I", told)[0]
        header = _slot(told, root, 2)
        if message.type == "dictionary":
            raise ValueError("dictionary-encoded columns are not taken")
        if message.type == "record batch" and _slot(told, header + struct.unpack_from("<I", told, header)[0], 3):
            raise ValueError("compressed columns are not taken")


def _slot(told: bytes, table: int, number: int) -> int:
    """Return where a field of a FlatBuffer's table stands, 0 where it is left out."""
    fields = table - struct.unpack_from("<i", told, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", told, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", told, fields + place)[0]
    return table + offset if offset else 0


def _fitted(values: Any, convert: Callable[[Any], pa.Array], kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Convert values; return them with null for those that do not fit, and the places of these."""
    try:
        return convert(values), np.array([], int)
    except _UNFIT:
        if len(values) == 1:
            return pa.nulls(1, kind), np.array([0])
    half = len(values) // 2
    first, wrong = _fitted(values[:half], convert, kind)
    second, more = _fitted(values[half:], convert, kind)
    return pa.concat_arrays([first, second]), np.concatenate([wrong, more + half])


def _of_json(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "UnixTimestamp":
        return _times(pa.array(values, pa.string()))
    if kind == "Bytes":
        return pa.array([None if value is None else base64.b64decode(value, validate=True) for value in values])
    if kind in ("Float32", "Float64") and bool in set(map(type, values)):
        raise TypeError("true and false are no numbers")
    if kind in ("Int32", "Int64") and float in set(map(type, values)):
        # straight to whole numbers Arrow would cut off fractions
        return pa.array(values, pa.float64()).cast(wide(kind))
    return _kept(pa.array(values, wide(kind)), kind)


def _of_arrow(values: pa.Array, kind: str) -> pa.Array:
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if kind == "UnixTimestamp":
        return _times(values) if text else values.cast(TIME, safe=False)
    if kind == "Bytes" and text:
        return _of_json(values.to_pylist(), kind)
    return _kept(values.cast(wide(kind)), kind)


def _times(text: pa.Array) -> pa.Array:
    """Read times; more than six digits of a second are cut."""
    return pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1").cast(TIME)


def _kept(values: pa.Array, kind: str) -> pa.Array:
    """Refuse numbers that single precision has no room for; take NaN for null, as Feast does."""
    if kind == "Float32":
        grown = pc.and_(pc.is_inf(values.cast(pa.float32(), safe=False)), pc.invert(pc.is_inf(values)))
        if pc.any(grown).as_py():
            raise ValueError("too large")
    return pc.if_else(pc.is_nan(values), None, values) if pa.types.is_floating(values.type) else values


def _family(given: pa.DataType, kind: str) -> bool:
    """Tell whether a column's type can hold a Feast type: text is no number, a time without zone no time."""
    text = pa.types.is_string(given) or pa.types.is_large_string(given)
    if kind == "UnixTimestamp":
        return bool(text or (pa.types.is_timestamp(given) and given.tz is not None))
    if kind in ("String", "Bytes"):
        return bool(text if kind == "String" else pa.types.is_binary(given) or pa.types.is_large_binary(given))
    if kind == "Bool":
        return bool(pa.types.is_boolean(given))
    return bool(pa.types.is_integer(given) or pa.types.is_floating(given))
