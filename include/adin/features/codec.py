"""Feast's Redis format, encoded and decoded a column at a time.

One hash an entity: its key is Feast's serialised entity key (version 3) followed by the project's name; its fields are
the murmur3 hash of ``view:feature`` with a ``Value`` message, and ``_ts:<view>`` with the event time. Feast reads what
is written here and the other way round. We add ``_created:<view>``: when the row became known and a hash of its
values, 8 bytes each, which Feast neither reads nor minds. Of a deleted row only this field is left, with the event time
as 8 bytes more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adin.errors import ConfigError, DataError


@dataclass(frozen=True)
class Kind:
    """One Feast type.

    :param number: Feast's ``ValueType``, and field number in the ``Value`` message.
    :param arrow: Arrow type a column is cast to before it is encoded.
    :param wire: how protobuf writes it: ``varint``, ``fixed`` or ``bytes``.
    :param numpy: NumPy type of a decoded column; None for objects.
    """

    number: int
    arrow: pa.DataType
    wire: str
    numpy: str | None

    @property
    def tag(self) -> int:
        """Return the byte before the value: field number and protobuf's wire type."""
        kind = {"varint": 0, "bytes": 2}.get(self.wire, 1 if self.arrow == pa.float64() else 5)
        return self.number << 3 | kind


KINDS: Mapping[str, Kind] = {
    "Bytes": Kind(1, pa.binary(), "bytes", None),
    "String": Kind(2, pa.string(), "bytes", None),
    "Int32": Kind(3, pa.int32(), "varint", "int32"),
    "Int64": Kind(4, pa.int64(), "varint", "int64"),
    "Float64": Kind(5, pa.float64(), "fixed", "float64"),
    "Float32": Kind(6, pa.float32(), "fixed", "float32"),
    "Bool": Kind(7, pa.bool_(), "varint", "bool"),
    "UnixTimestamp": Kind(8, pa.timestamp("s", "UTC"), "varint", "datetime64[s]"),
}
_KEY_KINDS = ("Bytes", "String", "Int32", "Int64", "UnixTimestamp")
#: Feast writes a missing time as this number, everything else that is missing as nothing.
NO_TIME = np.iinfo("i8").min
_STAMP = np.dtype([("created", "<i8"), ("hash", "<u8")])
_TOMBSTONE = np.dtype([("created", "<i8"), ("hash", "<u8"), ("event", "<i8")])
#: Stands for the hash of a deleted row: of rows with the same times, the deleted one wins.
DELETED = np.iinfo("u8").max


def kind(name: str) -> Kind:
    """Return a type by Feast's name; :raises ConfigError: it cannot be kept online."""
    if name not in KINDS:
        raise ConfigError(f"Features of type {name} cannot be kept online.", f"Use one of {', '.join(KINDS)}.")
    return KINDS[name]


def field_name(view: str, feature: str) -> bytes:
    """Return the hash field of a feature."""
    return mmh3.hash(f"{view}:{feature}", signed=False).to_bytes(4, "little")


def cast(column: Any, type_name: str, *, name: str) -> pa.Array:
    """Return a column in the type that is encoded; NaN becomes null, as Feast has it.

    :raises DataError: a value does not fit the type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    wanted = kind(type_name)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        # Feast too keeps whole seconds and single precision
        safe = wanted.arrow != pa.float32() and not pa.types.is_timestamp(wanted.arrow)
        return column.cast(wanted.arrow, safe=safe)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Column {name} does not fit its type {type_name}: {error}.") from None


# --- entity keys --------------------------------------------------------------------------------------------------


def entity_keys(columns: Mapping[str, tuple[str, pa.Array]], project: str) -> pa.Array:
    """Return the Redis key of each row.

    :param columns: type name and values, cast and without nulls, of each join key.
    """
    names = sorted(columns)
    parts: list[Any] = [_key_head(names)]
    for name in names:
        type_name, values = columns[name]
        if type_name not in _KEY_KINDS:
            raise ConfigError(f"The entity key {name} is of type {type_name}.", f"Use one of {', '.join(_KEY_KINDS)}.")
        wanted = KINDS[type_name]
        if wanted.wire == "bytes":
            content = values.cast(pa.binary())
            lengths = _lengths(content).astype("<u4")
            parts += [_u32(wanted.number), _fixed(lengths.view("u1").reshape(-1, 4)), content]
        else:
            raw = _numbers(values, "<i4" if type_name == "Int32" else "<i8")
            parts += [_u32(wanted.number) + _u32(raw.itemsize), _fixed(raw.view("u1").reshape(-1, raw.itemsize))]
    return join([*parts, project.encode()])


def entity_key(values: Mapping[str, tuple[str, Any]], project: str) -> bytes:
    """Return the Redis key of one entity: type name and value of each join key."""
    names = sorted(values)
    return _key_head(names) + b"".join(_key_value(*values[name]) for name in names) + project.encode()


def key_pattern(names: Sequence[str], project: str) -> bytes:
    """Return the pattern that Redis keys of entities with these join keys match."""
    literal = b"".join(
        b"\\" + bytes([each]) if each in b"*?[]\\^-" else bytes([each]) for each in _key_head(sorted(names))
    )
    return literal + b"*" + project.encode()


def _key_head(names: Sequence[str]) -> bytes:
    return _u32(len(names)) + b"".join(_u32(KINDS["String"].number) + _text(name) for name in names)


def _key_value(type_name: str, value: Any) -> bytes:
    if type_name == "String":
        return _u32(KINDS[type_name].number) + _text(value)
    if type_name == "Bytes":
        return _u32(KINDS[type_name].number) + _u32(len(value)) + bytes(value)
    width = 4 if type_name == "Int32" else 8
    return _u32(KINDS[type_name].number) + _u32(width) + int(value).to_bytes(width, "little", signed=True)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _u32(len(encoded)) + encoded


# --- values -------------------------------------------------------------------------------------------------------


def encode(column: pa.Array, type_name: str) -> pa.Array:
    """Return each value as a ``Value`` message; null is the empty message."""
    wanted = kind(type_name)
    if type_name == "UnixTimestamp":
        column = column.cast(pa.int64()).fill_null(NO_TIME)
    valid = np.asarray(column.is_valid())
    if wanted.wire == "bytes":
        content = column.cast(pa.binary()).fill_null(b"")
        message = join([bytes([wanted.tag]), _varints(_lengths(content), np.ones(len(content), bool)), content])
        return message if valid.all() else pc.if_else(pa.array(valid), message, pa.scalar(b"", pa.binary()))
    if wanted.wire == "fixed":
        raw = _numbers(column, "<f8" if type_name == "Float64" else "<f4")
        matrix = np.empty((len(raw), 1 + raw.itemsize), "u1")
        matrix[:, 0] = wanted.tag
        matrix[:, 1:] = raw.view("u1").reshape(-1, raw.itemsize)
        return _fixed(matrix, valid)
    return _varints(_numbers(column, "<i8"), valid, wanted.tag)


def encode_times(micros: np.ndarray) -> pa.Array:
    """Return times, microseconds since 1970, as ``Timestamp`` messages."""
    seconds, rest = np.divmod(micros, 1_000_000)
    every = np.ones(len(micros), bool)
    # protobuf leaves out a zero
    return join([_varints(seconds, seconds != 0, 0x08), _varints(rest * 1000, every & (rest != 0), 0x10)])


def decode_times(messages: Sequence[bytes | None]) -> np.ndarray:
    """Return times in microseconds since 1970; a missing one is the smallest integer."""
    if messages.count(None) == len(messages):
        return np.full(len(messages), NO_TIME)
    matrix = np.array([message or b"" for message in messages], "S22").view("u1").reshape(-1, 22).astype("i8")
    seconds, nanos, at = (np.zeros(len(matrix), "i8") for _ in range(3))
    for tag, target in ((0x08, seconds), (0x10, nanos)):
        here = matrix[np.arange(len(matrix)), np.minimum(at, 21)] == tag
        _read_varint(matrix, at, here, target)
    found = seconds * 1_000_000 + nanos // 1000
    found[[message is None for message in messages]] = NO_TIME
    return found


def _read_varint(matrix: np.ndarray, at: np.ndarray, here: np.ndarray, target: np.ndarray) -> None:
    """Read a number behind its tag where there is one, and move on behind it."""
    rows = np.flatnonzero(here)
    at[rows] += 1
    for shift in range(0, 70, 7):
        if not len(rows):
            return
        byte = matrix[rows, at[rows]]
        target[rows] |= (byte & 0x7F) << shift
        at[rows] += 1
        rows = rows[byte >= 0x80]


def encode_stamps(created: np.ndarray, hashes: np.ndarray) -> pa.Array:
    """Return when each row became known, microseconds, with the hash of its values."""
    stamps = np.empty(len(created), _STAMP)
    stamps["created"], stamps["hash"] = created, hashes
    return _fixed(stamps.view("u1").reshape(-1, _STAMP.itemsize))


def encode_tombstones(created: np.ndarray, event: np.ndarray) -> pa.Array:
    """Return the stamps of deleted rows."""
    stamps = np.empty(len(created), _TOMBSTONE)
    stamps["created"], stamps["hash"], stamps["event"] = created, DELETED, event
    return _fixed(stamps.view("u1").reshape(-1, _TOMBSTONE.itemsize))


def decode_stamps(stamps: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return created times, hashes and, of deleted rows, event times; the smallest time and 0 stand for none."""
    unknown = np.array([(NO_TIME, 0, NO_TIME)], _TOMBSTONE).tobytes()
    alive = unknown[_STAMP.itemsize :]
    raw = b"".join(unknown if s is None else s + alive if len(s) == _STAMP.itemsize else s for s in stamps)
    found = np.frombuffer(raw, _TOMBSTONE)
    return found["created"], found["hash"], found["event"]


def decode(messages: Sequence[bytes | None], type_name: str) -> np.ndarray:
    """Return ``Value`` messages as a column: nulls are NaN in numbers, None elsewhere, as pandas has them."""
    wanted = kind(type_name)
    if type_name == "UnixTimestamp":
        seconds = [_varint(message) if message else NO_TIME for message in messages]
        return np.array(seconds, "i8").view("datetime64[s]")
    valid = np.fromiter((bool(message) for message in messages), bool, len(messages))
    present = [message for message in messages if message]
    if wanted.wire == "fixed":
        values = np.frombuffer(b"".join(present), [("tag", "u1"), ("value", f"<f{4 if wanted.number == 6 else 8}")])
        found = np.full(len(messages), np.nan, wanted.numpy)
        found[valid] = values["value"]
        return found
    if wanted.wire == "bytes":
        contents: list[Any] = [_content(message) for message in present]
        return _objects(contents if type_name == "Bytes" else [text.decode() for text in contents], valid)
    numbers = np.array([_varint(message) for message in present], "i8")
    if valid.all():
        return numbers.astype(wanted.numpy)
    if type_name == "Bool":
        return _objects([bool(number) for number in numbers], valid)
    found = np.full(len(messages), np.nan)
    found[valid] = numbers
    return found


def _objects(values: list[Any], valid: np.ndarray) -> np.ndarray:
    found = np.full(len(valid), None, object)
    found[valid] = values
    return found


def _varint(message: bytes) -> int:
    number = shift = 0
    for byte in message[1:]:
        number |= (byte & 0x7F) << shift
        shift += 7
    return number - (1 << 64) if number >> 63 else number


def _content(message: bytes) -> bytes:
    at = 1
    while message[at] >= 0x80:
        at += 1
    return message[at + 1 :]


# --- columns of bytes ---------------------------------------------------------------------------------------------


def join(parts: Sequence[Any]) -> pa.Array:
    """Return columns of bytes, or constants, joined row by row."""
    columns = [part if isinstance(part, pa.Array) else pa.scalar(part, pa.binary()) for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.binary()))


def commands(name: bytes, arguments: Sequence[Any]) -> pa.Array:
    """Return one Redis command a row.

    :param arguments: columns of bytes, or constants; at least one column.
    """
    pieces: list[Any] = [b"*%d\r\n" % (1 + len(arguments))]
    for argument in (name, *arguments):
        pieces += [_length(argument), argument, b"\r\n"]
    # each piece costs a pass over all rows: neighbours that are the same for all become one
    grouped = groupby(pieces, lambda piece: isinstance(piece, bytes))
    return join([each for same, few in grouped for each in ([b"".join(few)] if same else few)])


def _length(argument: Any) -> Any:
    """Return what stands before an argument in Redis's protocol."""
    if isinstance(argument, bytes):
        return b"$%d\r\n" % len(argument)
    lengths = pc.binary_length(argument).dictionary_encode()
    heads = [b"$%d\r\n" % length for length in lengths.dictionary.to_pylist()]
    return heads[0] if len(heads) == 1 else pa.array(heads, pa.binary()).take(lengths.indices)


def hashes(columns: Sequence[pa.Array]) -> np.ndarray:
    """Return a 64-bit hash of each row's values."""
    found = np.zeros(len(columns[0]) if columns else 0, "u8")
    for column in columns:
        # an odd multiplier spreads, the shifts mix: the finaliser of splitmix64
        found = (found ^ _bits(column)) + np.uint64(0x9E3779B97F4A7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found ^= found >> np.uint64(31)
    return found


def _bits(column: pa.Array) -> np.ndarray:
    if pa.types.is_binary(column.type) or pa.types.is_string(column.type):
        words = column.dictionary_encode()
        table = np.array([mmh3.hash64(word.as_buffer().to_pybytes())[0] for word in words.dictionary], "i8")
        codes = words.indices.fill_null(0).to_numpy(zero_copy_only=False)
        bits = table[codes].view("u8") if len(table) else np.zeros(len(column), "u8")
    elif pa.types.is_floating(column.type):
        bits = _numbers(column, "<f8").view("u8")
    else:
        bits = _numbers(column, "<i8").view("u8")
    return np.where(np.asarray(column.is_valid()), bits, np.uint64(0x5BD1E9955BD1E995))


def _numbers(column: pa.Array, dtype: str) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.ascontiguousarray(column.fill_null(0).to_numpy(zero_copy_only=False).astype(dtype, copy=False))


def _lengths(column: pa.Array) -> np.ndarray:
    return np.asarray(pc.binary_length(column)).astype("i8")


def _fixed(matrix: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Return the rows of a byte matrix as a column; rows that are not valid are empty."""
    rows, width = matrix.shape
    if valid is None or valid.all():
        ends = np.arange(rows + 1, dtype="i4") * width
        return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(ends), pa.py_buffer(matrix.ravel())])
    ends = np.concatenate([[0], np.cumsum(valid * width)]).astype("i4")
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(ends), pa.py_buffer(matrix[valid].ravel())])


def _varints(numbers: np.ndarray, valid: np.ndarray, tag: int | None = None) -> pa.Array:
    """Return numbers as protobuf varints, behind a tag if one is given; empty where not valid."""
    left = numbers.astype("i8").view("u8")
    sizes = np.ones(len(left), "i8")
    rest = left >> np.uint64(7)
    while rest.any():
        sizes += rest != 0
        rest = rest >> np.uint64(7)
    head = 0 if tag is None else 1
    width = head + int(sizes.max(initial=1))
    matrix = np.empty((len(left), width), "u1")
    if tag is not None:
        matrix[:, 0] = tag
    for place in range(width - head):
        byte = (left >> np.uint64(7 * place)) & np.uint64(0x7F)
        matrix[:, head + place] = byte | np.where(place < sizes - 1, np.uint64(0x80), np.uint64(0))
    sizes = (sizes + head) * valid
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype("i4")
    content = matrix[np.arange(width) < sizes[:, None]]
    return pa.Array.from_buffers(pa.binary(), len(left), [None, pa.py_buffer(ends), pa.py_buffer(content)])
