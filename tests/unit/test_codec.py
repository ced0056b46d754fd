"""The online store's encoding against protobuf itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from adin.errors import ConfigError, DataError
from adin.features import codec, wire
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as some

pytestmark = pytest.mark.flow(9, 11)
_FIELDS = {
    "Bytes": "bytes_val",
    "String": "string_val",
    "Int32": "int32_val",
    "Int64": "int64_val",
    "Float64": "double_val",
    "Float32": "float_val",
    "Bool": "bool_val",
}
_VALUES: dict[str, Any] = {
    "Bytes": some.binary(max_size=300),
    "String": some.text(max_size=300),
    "Int32": some.integers(-(2**31), 2**31 - 1),
    "Int64": some.integers(-(2**63), 2**63 - 1),
    "Float64": some.floats(allow_nan=False),
    "Float32": some.floats(allow_nan=False, width=32),
    "Bool": some.booleans(),
}


@pytest.mark.parametrize("kind", _FIELDS)
def test_every_value_is_encoded_as_protobuf_encodes_it_and_read_back_equal(kind: str) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    @given(some.lists(some.none() | _VALUES[kind], max_size=20))
    def holds(values: list[Any]) -> None:
        column = pa.array(values, codec.kind(kind).arrow)
        encoded = codec.encode(column, kind).to_pylist()
        expected = [Value() if value is None else Value(**{_FIELDS[kind]: value}) for value in values]
        assert encoded == [message.SerializeToString() for message in expected]
        decoded = codec.decode(encoded, kind).tolist()
        whole = kind not in ("Int64",) or None not in values  # beside a null, whole numbers are read as float64
        for value, found in zip(values, decoded, strict=True):
            if value is None:
                assert found is None or found != found
            else:
                assert found == (value if whole else float(value))

    holds()


@given(some.lists(some.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), max_size=20))
def test_times_are_encoded_as_protobuf_encodes_them(times: list[datetime]) -> None:
    zero = datetime(1970, 1, 1)
    micros = np.array([(at - zero) // timedelta(microseconds=1) for at in times], "i8")
    expected = []
    for at in times:
        message = Timestamp()
        message.FromDatetime(at.replace(tzinfo=UTC))
        expected.append(message.SerializeToString())
    encoded = codec.encode_times(micros).to_pylist()
    assert encoded == expected
    assert codec.decode_times([*encoded, None]).tolist() == [*micros.tolist(), np.iinfo("i8").min]


@given(some.lists(some.tuples(some.text(max_size=20), some.integers(-(2**63), 2**63 - 1)), max_size=10))
def test_the_key_of_a_row_is_that_of_its_entity_in_feast(rows: list[tuple[str, int]]) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    shops, tills = pa.array([shop for shop, _ in rows], pa.string()), pa.array([till for _, till in rows], pa.int64())
    keys = codec.entity_keys({"till": ("Int64", tills), "shop": ("String", shops)}, "p").to_pylist()
    for (shop, till), key in zip(rows, keys, strict=True):
        entity = EntityKey(join_keys=["till", "shop"], entity_values=[Value(int64_val=till), Value(string_val=shop)])
        assert key == serialize_entity_key(entity, 3) + b"p"
        assert key == codec.entity_key({"till": ("Int64", till), "shop": ("String", shop)}, "p")


@given(some.lists(some.tuples(some.binary(max_size=12), some.text(max_size=3)), max_size=10), some.binary(max_size=12))
def test_commands_of_a_column_are_those_of_each_row(rows: list[tuple[bytes, str]], same: bytes) -> None:
    keys, texts = (
        pa.array([row[place] for row in rows], kind) for place, kind in enumerate((pa.binary(), pa.string()))
    )
    found = codec.commands(b"HSET", [keys, same, b"field", texts.cast(pa.binary())]).to_pylist()
    assert found == [wire.command(b"HSET", key, same, b"field", text.encode()) for key, text in rows]


def test_rows_that_differ_in_one_value_or_null_have_different_hashes() -> None:
    numbers = pa.array([1, 1, None, 0, 1], pa.int64())
    texts = pa.array(["a", "b", "a", "a", None])
    found = codec.hashes([numbers, texts])
    assert len(set(found.tolist())) == 5
    assert codec.hashes([numbers, texts]).tolist() == found.tolist()


def test_nan_is_null() -> None:
    assert codec.cast(pa.array([1.5, float("nan"), None]), "Float64", name="x").to_pylist() == [1.5, None, None]


def test_a_type_that_cannot_be_kept_and_a_value_that_does_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="Array"):
        codec.kind("Array(Int32)")
    with pytest.raises(DataError, match="Column x does not fit its type Int32"):
        codec.cast(pa.array([2**40]), "Int32", name="x")
