"""What local KFP remembers: resources as JSON documents in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adin.errors import NotFoundError

Doc = dict[str, Any]

#: Fields of a document one can filter and sort by.
FIELDS = (
    "name",
    "display_name",
    "description",
    "state",
    "status",
    "storage_state",
    "created_at",
    "finished_at",
    "scheduled_at",
    "experiment_id",
    "pipeline_id",
    "recurring_run_id",
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS resource (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    doc TEXT NOT NULL,
    {",".join(f"{field} TEXT GENERATED ALWAYS AS (json_extract(doc, '$.{field}'))" for field in FIELDS)},
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS by_display_name ON resource (kind, display_name);
CREATE INDEX IF NOT EXISTS by_state ON resource (kind, state);
CREATE TABLE IF NOT EXISTS spec (hash TEXT PRIMARY KEY, content TEXT NOT NULL);
"""


class Store:
    """Documents by kind and id. Every public method may be called from any thread.

    :param path: the SQLite file; made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes inside one step, seen whole or not at all; may be nested."""
        with self._lock:
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("COMMIT")

    def put(self, kind: str, key: str, doc: Doc) -> None:
        """Write a document, replacing the one with the same id."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO resource (kind, id, doc) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, id) DO UPDATE SET doc = excluded.doc",
                (kind, key, json.dumps(doc)),
            )

    def get(self, kind: str, key: str) -> Doc:
        """Return a document.

        :raises NotFoundError: there is none.
        """
        rows = self.select(kind, "id = ?", [key])
        if not rows:
            raise NotFoundError(f"{kind.capitalize()} {key} not found.")
        return rows[0][1]

    def delete(self, kind: str, key: str) -> None:
        """Remove a document.

        :raises NotFoundError: there is none.
        """
        with self.transaction():
            if not self._db.execute("DELETE FROM resource WHERE kind = ? AND id = ?", (kind, key)).rowcount:
                raise NotFoundError(f"{kind.capitalize()} {key} not found.")

    def select(
        self, kind: str, where: str = "TRUE", values: list[Any] | None = None, *, order: str = "seq", limit: int = -1
    ) -> list[tuple[int, Doc]]:
        """Return documents with their sequence numbers.

        :param where: SQL over :data:`FIELDS`, ``id`` and ``seq``; values only as ``?``.
        """
        query = f"SELECT seq, doc FROM resource WHERE kind = ? AND ({where}) ORDER BY {order} LIMIT ?"  # noqa: S608
        with self._lock:
            rows = self._db.execute(query, [kind, *(values or []), limit]).fetchall()
        return [(seq, json.loads(doc)) for seq, doc in rows]

    def find(self, kind: str, **fields: str) -> list[Doc]:
        """Return the documents whose fields have these values, oldest first."""
        where = " AND ".join(f"{field} = ?" for field in fields) or "TRUE"
        return [doc for _, doc in self.select(kind, where, list(fields.values()))]

    def count(self, kind: str, where: str = "TRUE", values: list[Any] | None = None) -> int:
        """Return how many documents there are."""
        query = f"SELECT count(*) FROM resource WHERE kind = ? AND ({where})"  # noqa: S608
        with self._lock:
            return int(self._db.execute(query, [kind, *(values or [])]).fetchone()[0])

    def put_spec(self, digest: str, content: str) -> None:
        """Keep a pipeline's text by its hash."""
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO spec VALUES (?, ?)", (digest, content))

    def spec(self, digest: str) -> Doc:
        """Return a pipeline kept by :meth:`put_spec`."""
        with self._lock:
            row = self._db.execute("SELECT content FROM spec WHERE hash = ?", (digest,)).fetchone()
        if row is None:
            raise NotFoundError(f"Pipeline text {digest} not found.")
        return dict(json.loads(row[0]))
