"""The database edition: logs and manifests as rows of PostgreSQL, through SQLAlchemy.

The primary key (model, seq) is the compare-and-swap: of two writers of the same number one gets nothing written.
What is searched is written in the same transaction as the log; where an older release wrote only the log, the next
search makes up for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

import psycopg2
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from adin.connections import Connection
from adin.errors import ConfigError, NotFoundError, ServiceError, UnreachableError
from adin.models import index, migrations
from adin.models.log import VersionState
from adin.models.manifest import ModelManifest
from adin.models.objects import patiently
from adin.models.record import Record
from adin.models.search import Hit, Query
from adin.models.store import Known, Look
from adin.models.tables import HEADS, LOG, MANIFESTS, NOTES, VERSIONS
from adin.settings import settings

T = TypeVar("T")

#: Any number, the same in all processes: who migrates holds PostgreSQL's advisory lock of this number.
_MIGRATION_LOCK = 4_061_017
_BATCH = 1000


class DatabaseStore:
    """Logs and manifests in a PostgreSQL database, whose tables are made or brought up to date at first use.

    :param conn: connection ``amversion``; its schema names the database.
    """

    def __init__(self, conn: Connection) -> None:
        self._where = f"database {conn.schema} at {conn.host}:{conn.port}"
        timeout = int(settings().read_timeout * 1000)
        self._engine = sa.create_engine(
            sa.URL.create("postgresql+psycopg2", conn.login, conn.password or None, conn.host, conn.port, conn.schema),
            connect_args={
                "connect_timeout": max(1, int(settings().connect_timeout)),
                "options": f"-c statement_timeout={timeout} -c timezone=UTC",
                "application_name": "adin-models",
            },
            hide_parameters=True,
        )
        # one statement is a transaction of its own: no round trips to begin and end one. A connection that was cut is
        # noticed when it is used, and what failed is done again
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()
        self._ready = False

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""
        query = sa.select(LOG.c.model).where(LOG.c.seq == 1, ~LOG.c.model.startswith("."))
        return sorted(str(row[0]) for row in self._rows(query))

    def documents(self, model: str, after: int = 0, *, anew: bool = False) -> list[str]:
        """Return the documents of a log behind a sequence number, in order."""
        query = sa.select(LOG.c.document).where(LOG.c.model == model, LOG.c.seq > after).order_by(LOG.c.seq)
        return [row[0] for row in self._rows(query)]

    def append(self, records: Sequence[Record], states: Mapping[int, VersionState]) -> bool:
        """Write all the records unless the number of the first is taken."""
        if len(records) == 1 and records[0].seq > 1 and records[0].event != "register":
            return bool(self._rows(index.step(records[0], states)))
        rows = [
            {**record.model_dump(include={"model", "seq", "event", "version", "time"}), "document": record.document}
            for record in records
        ]
        # nothing is updated on a conflict: the first writer's row stays
        insert = postgresql.insert(LOG).values(rows[0]).on_conflict_do_nothing()

        def write() -> bool:
            with self._engine.begin() as connection:
                if not connection.execute(insert).rowcount:
                    return False
                if rows[1:]:
                    connection.execute(sa.insert(LOG), rows[1:])
                index.follow(connection, records, states)
            return True

        return self._call(write)

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash."""
        row = {"model": model, "sha256": digest, "document": document.decode()}
        self._write(postgresql.insert(MANIFESTS).values(row).on_conflict_do_nothing())

    def manifests(self, model: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return manifests by hash."""
        wanted = list(digests)
        found: dict[str, bytes] = {}
        for start in range(0, len(wanted), _BATCH):
            some = MANIFESTS.c.sha256.in_(wanted[start : start + _BATCH])
            query = sa.select(MANIFESTS.c.sha256, MANIFESTS.c.document).where(MANIFESTS.c.model == model, some)
            found |= {digest: document.encode() for digest, document in self._rows(query)}
        if missing := [digest for digest in wanted if digest not in found]:
            raise NotFoundError(f"No manifest {missing[0]} of {model} in the {self._where}.")
        return found

    def manifest_times(self) -> dict[tuple[str, str], datetime]:
        """Return when each manifest was kept."""
        rows = self._rows(sa.select(MANIFESTS.c.model, MANIFESTS.c.sha256, MANIFESTS.c.stored))
        return {(model, digest): stored for model, digest, stored in rows}

    def drop_manifests(self, model: str, digests: Iterable[str]) -> None:
        """Delete manifests; the database refuses those which a log entry names."""
        wanted = list(digests)
        for start in range(0, len(wanted), _BATCH):
            some = MANIFESTS.c.sha256.in_(wanted[start : start + _BATCH])
            self._write(sa.delete(MANIFESTS).where(MANIFESTS.c.model == model, some))

    def search(self, query: Query, look: Look) -> list[Hit]:
        """Return a page of the versions that fit, and one more if there is another page."""
        for (model,) in self._rows(index.behind(query)):
            self._index(model, look)
        return [Hit(*row) for row in self._rows(index.select(query))]

    def note(self, key: str) -> tuple[bytes, str] | None:
        """Return a note and its tag."""
        rows = self._rows(sa.select(NOTES.c.content, NOTES.c.tag).where(NOTES.c.key == key))
        return (bytes(rows[0][0]), str(rows[0][1])) if rows else None

    def swap(self, key: str, content: bytes, tag: str | None) -> bool:
        """Write a note if it still has the tag that was read."""
        row = {"key": key, "tag": uuid4().hex, "content": content}
        if tag is None:
            return self._write(postgresql.insert(NOTES).values(row).on_conflict_do_nothing()) > 0
        return self._write(sa.update(NOTES).where(NOTES.c.key == key, NOTES.c.tag == tag).values(row)) > 0

    def recheck(self, model: str, known: Known) -> None:
        """Let a model's rows be made anew by the next search if they differ from its log."""
        rows = self._rows(sa.select(VERSIONS.c.number, VERSIONS.c.state).where(VERSIONS.c.model == model))
        if dict(map(tuple, rows)) != dict(known.states):
            self._write(sa.delete(HEADS).where(HEADS.c.model == model))

    def identity(self) -> str:
        """Return which server keeps the database."""
        return f"{self._where}, PostgreSQL {self._rows(sa.text('SHOW server_version'))[0][0]}"

    def clean(self, prefix: str) -> None:
        """Remove logs and notes whose names begin with a prefix, which begins with ``.doctor``."""
        assert prefix.startswith(".doctor")
        self._write(sa.delete(LOG).where(LOG.c.model.startswith(prefix)))
        self._write(sa.delete(NOTES).where(NOTES.c.key.startswith(prefix)))

    def _index(self, model: str, look: Look) -> None:
        """Write what is searched of a model anew from its log."""
        known = look(model)
        manifests = self.manifests(model, set(known.digests.values()))
        read = {digest: ModelManifest.read(document, digest) for digest, document in manifests.items()}
        versions = {number: read[digest] for number, digest in known.digests.items()}

        def write() -> None:
            with self._engine.begin() as connection:
                index.rebuild(connection, model, known.seq, versions, known.states)

        self._call(write)

    def _rows(self, query: Any) -> list[Any]:
        def read() -> list[Any]:
            with self._single.connect() as connection:
                return list(connection.execute(query))

        return self._call(read)

    def _write(self, statement: Any) -> int:
        """Run a statement and return the rows it touched."""

        def write() -> int:
            with self._single.connect() as connection:
                return connection.execute(statement).rowcount

        return self._call(write)

    def _call(self, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                self._migrate()
                return call()
            except sa.exc.DBAPIError as error:
                raise self._translated(error.orig or error) from None
            except psycopg2.Error as error:  # of a cut connection, when SQLAlchemy takes it from the pool
                raise self._translated(error) from None

        return patiently(translated)

    def _translated(self, error: BaseException) -> Exception:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "password authentication failed" in text or "does not exist" in text:
            return ConfigError(f"The {self._where} refuses: {text}.", "Check the connection amversion.")
        # a server that is away, starting or stopping, or that took too long
        away = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        kind = UnreachableError if away else ServiceError
        return kind(f"The {self._where} failed: {text}.", "Is PostgreSQL up?")

    def _migrated(self) -> str | None:
        """Return the number of the last migration the tables have seen; None where there are no tables."""
        with self._single.connect() as connection:
            if connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None:
                return None
            found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)

    def _migrate(self) -> None:
        """Bring the tables up to date; of several processes one does it while the others wait."""
        with self._lock:
            if self._ready:
                return
            if self._migrated() == migrations.newest():
                self._ready = True
                return
            from alembic import command

            with self._engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                command.upgrade(migrations.config(connection), "head")
            self._ready = True
