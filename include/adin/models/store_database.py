"""The database edition: logs and manifests as rows of PostgreSQL, through SQLAlchemy.

The primary key (model, seq) is the compare-and-swap: of two writers of the same number one gets an integrity error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from adin.connections import Connection
from adin.errors import ConfigError, NotFoundError, ServiceError
from adin.models.log import Entry
from adin.models.objects import patiently
from adin.settings import settings

T = TypeVar("T")

_METADATA = sa.MetaData()
LOG = sa.Table(
    "log",
    _METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
MANIFESTS = sa.Table(
    "manifest",
    _METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)

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
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(1, int(settings().connect_timeout)),
                "options": f"-c statement_timeout={timeout} -c timezone=UTC",
                "application_name": "adin-models",
            },
            hide_parameters=True,
        )
        self._lock = threading.Lock()
        self._ready = False

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""
        return [str(row[0]) for row in self._rows(sa.select(LOG.c.model).where(LOG.c.seq == 1).order_by(LOG.c.model))]

    def entries(self, model: str, after: int = 0) -> list[Entry]:
        """Return the log entries behind a sequence number, in order."""
        query = sa.select(LOG.c.document).where(LOG.c.model == model, LOG.c.seq > after).order_by(LOG.c.seq)
        return [Entry.read(row[0]) for row in self._rows(query)]

    def append(self, entry: Entry) -> bool:
        """Write an entry unless its sequence number is taken."""
        row = entry.model_dump(include={"model", "seq", "event", "version", "time"})
        return self._insert(LOG, row | {"document": entry.document})

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash."""
        self._insert(MANIFESTS, {"model": model, "sha256": digest, "document": document.decode()})

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

    def _rows(self, query: Any) -> list[Any]:
        def read() -> list[Any]:
            with self._engine.connect() as connection:
                return list(connection.execute(query))

        return self._call(read)

    def _insert(self, table: sa.Table, row: dict[str, Any]) -> bool:
        # nothing is updated on a conflict: the first writer's row stays
        insert = postgresql.insert(table).values(row).on_conflict_do_nothing()

        def write() -> bool:
            with self._engine.begin() as connection:
                return bool(connection.execute(insert).rowcount)

        return self._call(write)

    def _call(self, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                self._migrate()
                return call()
            except sa.exc.DBAPIError as error:
                raise self._translated(error) from None

        return patiently(translated)

    def _translated(self, error: sa.exc.DBAPIError) -> Exception:
        text = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
        if "password authentication failed" in text or "does not exist" in text:
            return ConfigError(f"The {self._where} refuses: {text}.", "Check the connection amversion.")
        return ServiceError(f"The {self._where} failed: {text}.", "Is PostgreSQL up?")

    def _migrate(self) -> None:
        """Bring the tables up to date; of several processes one does it while the others wait."""
        with self._lock:
            if self._ready:
                return
            from alembic import command
            from alembic.config import Config

            with self._engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config = Config()
                config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            self._ready = True
