"""A project of Feast itself on a Parquet file, with Feast's engine and Redis store or with ours."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from adin.features import store
from shop_rows import AT

OURS = "adin.features.feast_online"
START, END = AT - timedelta(days=1), AT + timedelta(days=3)

TYPES = ("Float64", "Float32", "Int32", "Int64", "Bool", "String", "UnixTimestamp")
NAMES = ("amount", "mean", "orders", "cents", "open", "keeper", "opened_at")


def definitions(path: Path, tags: dict[str, str], ttl: timedelta) -> list[Any]:
    """Views of a Parquet file: every type the online store keeps, and one it does not."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType, types

    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    source = FileSource(name="rows", path=str(path), **times)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    till = Entity(name="till", join_keys=["till_id"], value_type=ValueType.INT64)
    fields = [Field(name=name, dtype=getattr(types, kind)) for name, kind in zip(NAMES, TYPES, strict=True)]
    many = [Field(name="many", dtype=types.Array(types.Int64))]
    same: dict[str, Any] = {"ttl": ttl, "source": source, "tags": tags}
    takings = FeatureView(name="takings", entities=[till, shop], schema=fields, **same)
    return [shop, till, source, takings, FeatureView(name="lists", entities=[till], schema=many, **same)]


CONFIG = """
project: bakery
provider: local
entity_key_serialization_version: 3
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
online_store: {{type: {store}, redis_type: {kind}, connection_string: '{redis}'}}
offline_store: {{type: dask}}
{engine}
"""


class Project:
    """A Feast project in a folder of its own, on a Parquet file.

    :param ours: with our engine and store, else with Feast's.
    :param tags: of the views, :param ttl: Feast's own of the views.
    """

    def __init__(
        self,
        folder: Path,
        redis: Any,
        *,
        ours: bool,
        tags: dict[str, str] | None = None,
        ttl: timedelta = timedelta(0),
    ) -> None:
        folder.mkdir()
        self.tags, self.ttl = tags or {}, ttl
        self.folder, self.file = folder, folder / "rows.parquet"
        engine = f"batch_engine: {{type: {OURS}.ArrowEngine}}" if ours else ""
        kind = store._redis_type(redis)
        chosen = f"{OURS}.RedisOnlineStore" if ours else "redis"
        (folder / "feature_store.yaml").write_text(
            CONFIG.format(
                folder=folder,
                store=chosen,
                kind=kind,
                redis=store._redis(redis),
                engine=engine,
            )
        )

    def put(self, table: pa.Table) -> None:
        """Let the file hold rows."""
        if "many" not in table.column_names:
            table = table.append_column("many", pa.array([[n, n + 1] for n in range(table.num_rows)]))
        pq.write_table(table, self.file)

    def apply(self) -> Any:
        """Apply the definitions and return the SDK's store."""
        from feast import FeatureStore

        found = FeatureStore(repo_path=str(self.folder))
        found.apply(definitions(self.file, self.tags, self.ttl))
        return found
