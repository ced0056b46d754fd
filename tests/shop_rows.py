"""Rows of the view ``takings`` of the domain ``shop``, and the stock SDK writing them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from adin.features import repo, store
from adin.features.repo import View
from adin.settings import settings

AT = datetime(2013, 7, 1, 12, tzinfo=UTC)


def forget() -> None:
    """Let settings and definitions be read anew."""
    settings.cache_clear()
    repo.read_anew()


def takings() -> View:
    return repo.domain("shop").view("takings")


def rows(count: int, *, at: datetime = AT, created: datetime = AT, seed: int = 1) -> pa.Table:
    """Rows with nulls, zeros, negative and large numbers, empty and long texts in every column."""
    random = np.random.default_rng(seed)

    def some_null(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=random.random(count) < 0.2)

    # Feast itself rounds whole numbers beyond 2**53 where the column has a null
    numbers = random.integers(-(2**53), 2**53, count)
    small = random.integers(-(2**31), 2**31, count)
    texts = np.array(["", "naïve café", "x" * 200, "a\r\nb", "نان"], object)[random.integers(0, 5, count)]
    when = [at + timedelta(microseconds=int(random.integers(0, 3) * 250_000)) for _ in range(count)]
    return pa.table(
        {
            "shop": pa.array([f"shop-{n % 97}" for n in range(count)]),
            "till_id": pa.array(np.arange(count) - 5, pa.int64()),
            "amount": some_null(random.normal(size=count), pa.float64()),
            "mean": some_null(np.where(random.random(count) < 0.3, 0, random.normal(size=count)), pa.float32()),
            "orders": some_null(np.where(random.random(count) < 0.3, 0, small), pa.int32()),
            "cents": some_null(np.where(random.random(count) < 0.3, small, numbers), pa.int64()),
            "open": some_null(random.random(count) < 0.5, pa.bool_()),
            "keeper": some_null(texts, pa.string()),
            "opened_at": some_null(when, pa.timestamp("us", "UTC")),
            "event_timestamp": pa.array(when, pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array([created] * count, pa.timestamp("us", "UTC")),
        }
    )


def keys(table: pa.Table) -> list[dict[str, Any]]:
    return list(table.select(["shop", "till_id"]).to_pylist())


def by_feast(table: pa.Table) -> None:
    """Write rows with the stock SDK, by Arrow as its own materialization does."""
    from feast.utils import _convert_arrow_to_proto

    feast = store.feature_store()
    view = feast.registry.get_feature_view("takings", feast.project)
    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    feast._get_provider().online_write_batch(feast.config, view, _convert_arrow_to_proto(table, view, types), None)
