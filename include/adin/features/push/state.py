"""What the push service must not forget: answers by idempotency key, the audit log, rows that still wait to be written.

Kept in the schema ``push`` of a PostgreSQL database. Values of rows stand in dead letters and in what is to be landed,
until they are written, and in the reasons of kept answers; never in the audit log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg2
import sqlalchemy as sa

from adin.connections import Connection, connection
from adin.errors import ConfigError, ConflictError, DataError, NotFoundError, ServiceError
from adin.features.push.refusals import Refused
from adin.settings import settings

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Any number, the same in all processes: who makes the tables holds PostgreSQL's advisory lock of this number.
_LOCK = 4_061_018
#: Requests whose rows are landed in one step, and the bytes at which no more are taken.
_LANDED, _LANDED_BYTES = 500, 32 << 20
#: Seconds after which a request that was never answered is taken for dead, and its retry is let in.
_DEAD = 60

_TABLES = """
CREATE SCHEMA IF NOT EXISTS push;
CREATE TABLE IF NOT EXISTS audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL DEFAULT now(),
    request text NOT NULL,
    who text NOT NULL,
    token text NOT NULL,
    view text NOT NULL,
    status int NOT NULL,
    rows int NOT NULL,
    written int NOT NULL,
    unchanged int NOT NULL,
    refused int NOT NULL,
    waiting int NOT NULL,
    repeated boolean NOT NULL
);
ALTER TABLE audit ADD COLUMN IF NOT EXISTS times int NOT NULL DEFAULT 1;
CREATE TABLE IF NOT EXISTS answer (
    who text NOT NULL,
    key text NOT NULL,
    digest text NOT NULL,
    received timestamptz NOT NULL,
    claimed timestamptz NOT NULL DEFAULT now(),
    status int,
    document jsonb,
    PRIMARY KEY (who, key)
);
CREATE TABLE IF NOT EXISTS dead_letter (
    id text PRIMARY KEY,
    time timestamptz NOT NULL,
    who text NOT NULL,
    view text NOT NULL,
    rows int NOT NULL,
    reason text NOT NULL,
    content bytea,
    settled timestamptz,
    settled_by text,
    outcome text
);
CREATE TABLE IF NOT EXISTS to_land (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view text NOT NULL,
    content bytea NOT NULL
);
ALTER TABLE to_land ADD COLUMN IF NOT EXISTS trouble text;
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME;
END $$;
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

#: Whether all that is there: it is made as a whole. To make it again, changing nothing, waits for whoever works on it.
_MADE = sa.text(
    "SELECT count(*) = 2 FROM information_schema.columns WHERE table_schema = 'push' "
    "AND (table_name, column_name) IN (('audit', 'times'), ('to_land', 'trouble'))"
)

_CLAIM = """
INSERT INTO answer (who, key, digest, received) VALUES (:who, :key, :digest, :received)
ON CONFLICT (who, key) DO UPDATE SET claimed = now()
    WHERE answer.status IS NULL AND answer.digest = excluded.digest
    AND answer.claimed < now() - make_interval(secs => :dead)
RETURNING received
"""


@dataclass(frozen=True)
class Counts:
    """What became of the rows of a request.

    :param unchanged: rows already stored, or followed by a newer one of the same key in the same request.
    :param waiting: rows accepted and kept until Redis takes them.
    """

    rows: int = 0
    written: int = 0
    unchanged: int = 0
    refused: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Asked:
    """One request, without its rows.

    :param id: random, told in the answer and in the audit log.
    :param key: idempotency key, empty for none, and :param digest: hash of what was asked.
    """

    id: str
    who: str
    token: str
    view: str
    received: datetime
    key: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Answer:
    """What a request was answered."""

    status: int
    document: dict[str, Any]


@dataclass(frozen=True)
class DeadLetter:
    """Rows that were accepted and could not be written."""

    id: str
    time: datetime
    who: str
    view: str
    rows: int
    reason: str
    settled: datetime | None
    outcome: str | None


class State:
    """The service's memory; its tables are made at first use.

    :param conn: default the connection ``push``; its ``extra.database`` is a URL of PostgreSQL.
    :raises ConfigError: it names none.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        conn = conn or connection("push")
        if not conn.extra.get("database"):
            raise ConfigError("The connection push names no database.", "Add extra.database; see docs/push.md.")
        try:
            url = sa.make_url(conn.extra["database"]).set(drivername="postgresql+psycopg2")
        except sa.exc.ArgumentError:
            raise ConfigError("extra.database of the connection push is no URL.", "See docs/push.md.") from None
        self._where = f"database {url.database} at {url.host}:{url.port}"
        options = {"statement_timeout": int(settings().read_timeout * 1000), "timezone": "UTC", "search_path": "push"}
        self._engine = sa.create_engine(
            url,
            pool_size=settings().push_parallel + 2,
            connect_args={
                "connect_timeout": max(1, int(settings().connect_timeout)),
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
                "application_name": "adin-push",
            },
            hide_parameters=True,
        )
        # one statement is a transaction of its own: no round trips to begin and end one
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._ready = False

    # --- requests

    def claim(self, asked: Asked) -> Answer | datetime:
        """Take an idempotency key for a request.

        :returns: the answer it had before, or when it was first received: now it is to be answered.
        :raises DataError: the key was used for something else.
        :raises ConflictError: the same request is being answered at this moment.
        """
        facts = {"who": asked.who, "key": asked.key, "digest": asked.digest}

        def take(link: sa.Connection) -> Answer | datetime:
            received = link.scalar(sa.text(_CLAIM), {**facts, "received": asked.received, "dead": _DEAD})
            if received is not None:
                return received  # type: ignore[no-any-return]
            query = "SELECT digest, status, document FROM answer WHERE who = :who AND key = :key"
            found = link.execute(sa.text(query), facts).one_or_none()
            if found is None or (found.digest == asked.digest and found.status is None):
                raise ConflictError("A request with this Idempotency-Key is being answered.", "Ask again in a second.")
            if found.digest != asked.digest:
                raise DataError("This Idempotency-Key was used with another body.", "Use a new key for other rows.")
            return Answer(found.status, dict(found.document))

        return self._call(take)

    def release(self, asked: Asked) -> None:
        """Give a key back: the request was not answered for good, and may be tried again."""
        statement = "DELETE FROM answer WHERE who = :who AND key = :key AND status IS NULL"
        self._call(lambda link: link.execute(sa.text(statement), {"who": asked.who, "key": asked.key}))

    def finish(
        self, asked: Asked, answer: Answer, counts: Counts, *, keep: bool = False, repeated: bool = False
    ) -> None:
        """Write a request into the audit log and, in the same step, keep its answer for its key if ``keep``."""
        facts: dict[str, Any] = {"request": asked.id, "who": asked.who, "token": asked.token, "view": asked.view}
        facts |= {"status": answer.status, "repeated": repeated, **asdict(counts)}
        statement = _line(facts)
        if not keep:
            self._call(lambda link: link.execute(sa.text(statement), facts), single=True)
            return
        kept = "UPDATE answer SET status = :status, document = :document WHERE who = :who AND key = :key"
        both = sa.text(f"WITH kept AS ({kept}) {statement}").bindparams(sa.bindparam("document", type_=sa.JSON))
        facts |= {"document": answer.document, "key": asked.key}
        self._call(lambda link: link.execute(both, facts), single=True)

    def refuse(self, refused: Sequence[Refused]) -> None:
        """Write requests that were refused before a worker saw them into the audit log, all or none."""
        nothing = {"request": "", "repeated": False, **asdict(Counts())}
        facts = [
            {
                "time": each.since,
                "who": each.who,
                "token": each.token,
                "view": each.view,
                "status": each.status,
                "times": each.times,
                **nothing,
            }
            for each in refused
        ]
        self._call(lambda link: link.execute(sa.text(_line(facts[0])), facts))

    def audit(self, last: int = 100) -> list[dict[str, Any]]:
        """Return the last lines, newest first; ``times`` tells how many refused requests are one line."""
        query = sa.text("SELECT * FROM audit ORDER BY seq DESC LIMIT :last")
        return self._call(lambda link: [dict(row._mapping) for row in link.execute(query, {"last": last})], single=True)

    def purge(self) -> None:
        """Forget answers older than the setting ``push_keep_hours``."""
        statement = sa.text("DELETE FROM answer WHERE received < now() - make_interval(secs => :seconds)")
        self._call(lambda link: link.execute(statement, {"seconds": settings().push_keep_hours * 3600}))

    # --- dead letters

    def bury(self, asked: Asked, content: bytes, rows: int, reason: str) -> None:
        """Keep accepted rows until they can be written; under the same id twice, they are kept once."""
        facts: dict[str, Any] = {"id": asked.id, "time": asked.received, "who": asked.who, "view": asked.view}
        facts |= {"rows": rows, "reason": reason, "content": content}
        statement = (
            "INSERT INTO dead_letter (id, time, who, view, rows, reason, content) "
            "VALUES (:id, :time, :who, :view, :rows, :reason, :content) ON CONFLICT DO NOTHING"
        )
        self._call(lambda link: link.execute(sa.text(statement), facts))

    def dead_letters(self, *, settled: bool = False) -> list[DeadLetter]:
        """Return the rows that wait, oldest first, and those that no longer do if ``settled``."""
        names = ", ".join(DeadLetter.__dataclass_fields__)
        where = "" if settled else "WHERE settled IS NULL"
        query = sa.text(f"SELECT {names} FROM dead_letter {where} ORDER BY time, id")  # noqa: S608 - our own names
        return self._call(lambda link: [DeadLetter(*row) for row in link.execute(query)])

    def settle(self, letter: str, actor: str, write: Callable[[str, bytes], str]) -> str:
        """Let the rows of a dead letter be written; they are forgotten once they are. Two at once wait for each other.

        :param write: gets the view and the rows, and returns what became of them.
        :raises NotFoundError: none of that id waits.
        """
        query = sa.text("SELECT view, content FROM dead_letter WHERE id = :id AND settled IS NULL FOR UPDATE")
        done = sa.text(
            "UPDATE dead_letter SET settled = now(), settled_by = :actor, outcome = :outcome, content = NULL "
            "WHERE id = :id"
        )

        def run(link: sa.Connection) -> str:
            found = link.execute(query, {"id": letter}).one_or_none()
            if found is None:
                raise NotFoundError(f"No dead letter {letter!r} waits.", "See `adin features dead-letters`.")
            outcome = write(found.view, bytes(found.content))
            link.execute(done, {"id": letter, "actor": actor, "outcome": outcome})
            return outcome

        return self._call(run)

    # --- rows for the offline table

    def keep(self, view: str, content: bytes) -> None:
        """Keep accepted rows until they are landed as raw data."""
        statement = sa.text("INSERT INTO to_land (view, content) VALUES (:view, :content)")
        self._call(lambda link: link.execute(statement, {"view": view, "content": content}), single=True)

    def land(self, write: Callable[[str, list[bytes]], None]) -> int:
        """Let the oldest rows that wait be landed; they are forgotten once they are. Two at once take others.

        Rows which ``write`` finds wrong, with a ``DataError``, are put aside until :meth:`land_all_again`.

        :param write: gets a view and its rows.
        :returns: how many requests' rows were landed, or put aside.
        """
        query = sa.text(
            "SELECT seq, view, content FROM to_land WHERE trouble IS NULL ORDER BY seq LIMIT :most "
            "FOR UPDATE SKIP LOCKED"
        )
        done = sa.text("DELETE FROM to_land WHERE seq = ANY(:seqs)")
        aside = sa.text("UPDATE to_land SET trouble = :trouble WHERE seq = :seq")

        def attempt(link: sa.Connection, view: str, rows: Sequence[Any]) -> None:
            try:
                write(view, [bytes(row.content) for row in rows])
            except DataError as error:
                if len(rows) == 1:
                    log.error("accepted rows of %s cannot be landed, and are put aside: %s", view, error)
                    link.execute(aside, {"trouble": str(error), "seq": rows[0].seq})
                    return
                for row in rows:  # the others' are landed
                    attempt(link, view, [row])
            else:
                link.execute(done, {"seqs": [row.seq for row in rows]})

        def run(link: sa.Connection) -> int:
            found: list[Any] = []
            size = 0
            with link.execute(query, {"most": _LANDED}, execution_options={"yield_per": 4}) as rows:
                for row in rows:
                    found.append(row)
                    size += len(row.content)
                    if size >= _LANDED_BYTES:
                        break
            for view in sorted({row.view for row in found}):
                attempt(link, view, [row for row in found if row.view == view])
            return len(found)

        return self._call(run)

    def land_all_again(self) -> None:
        """Have rows tried again that were put aside: a service that starts may know other definitions."""
        self._call(lambda link: link.execute(sa.text("UPDATE to_land SET trouble = NULL WHERE trouble IS NOT NULL")))

    # --- inside

    def ping(self) -> None:
        """See that the database answers."""
        self._call(lambda link: link.scalar(sa.text("SELECT 1")))

    def _call(self, call: Callable[[sa.Connection], T], *, single: bool = False) -> T:
        """Run a call in one transaction; once more where the connection had been cut while nobody used it.

        :param single: the call is a single statement.
        """
        for last in (False, True):
            try:
                self._make()
                with self._single.connect() if single else self._engine.begin() as link:
                    return call(link)
            except (sa.exc.DBAPIError, psycopg2.Error) as error:
                if last or not getattr(error, "connection_invalidated", False):
                    raise self._translated(error) from None
        raise AssertionError("unreachable")

    def _make(self) -> None:
        """Make the tables; of several processes one does it while the others wait."""
        if not self._ready:
            with self._engine.begin() as link:
                link.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                if not link.scalar(_MADE):
                    link.execute(sa.text(_TABLES))
            self._ready = True

    def _translated(self, error: Exception) -> Exception:
        text = (str(getattr(error, "orig", None) or error).strip() or type(error).__name__).splitlines()[0]
        if "password authentication failed" in text or "does not exist" in text:
            return ConfigError(f"The {self._where} refuses: {text}.", "Check extra.database of the connection push.")
        return ServiceError(f"The {self._where} failed: {text}.", "Is PostgreSQL up?")


def _line(names: Iterable[str]) -> str:
    """Return the statement that writes a line of the audit log."""
    return f"INSERT INTO audit ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608 - our own names
