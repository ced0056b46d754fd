"""Where the servers of the contract tests answer, and plain ways to look into them and to do damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adin.connections import Connection


@dataclass(frozen=True)
class Servers:
    """Where the object store and PostgreSQL answer, and a bucket and a database of this session's own."""

    s3: Connection
    database: Connection
    bucket: str


def s3_client(conn: Connection) -> Any:
    """Return a plain client of the object store, to look and to do damage."""
    from minio import Minio

    return Minio(f"{conn.host}:{conn.port}", conn.login, conn.password, secure=False, region="us-east-1")


def execute(conn: Connection, statement: str) -> None:
    """Run one statement in a database, outside a transaction."""
    with _cursor(conn) as cursor:
        cursor.execute(statement)


def fetched(conn: Connection, query: str) -> list[Any]:
    """Return the rows of a query."""
    with _cursor(conn) as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


@contextmanager
def _cursor(conn: Connection) -> Iterator[Any]:
    import psycopg2

    database = psycopg2.connect(
        host=conn.host, port=conn.port, user=conn.login, password=conn.password, dbname=conn.schema
    )
    database.autocommit = True
    try:
        with database.cursor() as cursor:
            yield cursor
    finally:
        database.close()
