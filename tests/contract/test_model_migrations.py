"""The tables of the database edition: made where there are none, brought up to date where there are older ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from adin.connections import Connection
from adin.models import Query, Registry, registry
from adin.models.migrations import config, newest
from adin.models.tables import METADATA
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from model_facts import files, register, validated
from processes import at_once
from servers import Servers, execute

pytestmark = [pytest.mark.flow(16, 19), pytest.mark.parametrize("edition", ["database"], indirect=True)]


@pytest.fixture
def engine(empty: Connection) -> Iterator[sa.Engine]:
    url = sa.URL.create("postgresql+psycopg2", empty.login, empty.password, empty.host, empty.port, empty.schema)
    made = sa.create_engine(url, poolclass=sa.NullPool)
    yield made
    made.dispose()


def migrate(engine: sa.Engine, revision: str) -> None:
    with engine.begin() as connection:
        (command.downgrade if revision == "base" else command.upgrade)(config(connection), revision)


@pytest.fixture
def first_release(
    engine: sa.Engine, edition: Connection, servers: Servers, model: str, tmp_path: Path
) -> tuple[str, list[Any]]:
    """A database that the first release has made and filled; the model in it, and its log."""
    source = registry(edition, s3=servers.s3)
    for n in range(2):
        validated(source, model, files(tmp_path / str(n)), f"run-{n}")
    source.promote(model, 1, against=None, actor="test", reason="first")
    migrate(engine, "0001")
    columns = {"log": "model, seq, event, version, time, document", "manifest": "model, sha256, document"}
    url = sa.URL.create(
        "postgresql+psycopg2", edition.login, edition.password, edition.host, edition.port, edition.schema
    )
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as here, engine.begin() as there:
        for table, names in columns.items():
            rows = here.execute(sa.text(f"SELECT {names} FROM {table} WHERE model = :model"), {"model": model})
            values = ", ".join(f":{name}" for name in names.split(", "))
            there.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), [r._asdict() for r in rows])
    return model, source.log(model)


def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_that_is_in_it(
    empty: Connection, servers: Servers, first_release: tuple[str, list[Any]], tmp_path: Path
) -> None:
    model, log = first_release
    models = registry(empty, s3=servers.s3)
    assert models.log(model) == log
    assert [v.number for v in models.search(Query(model, metrics={"auc": (0.7, None)})).versions] == [1, 2]
    assert [v.number for v in models.search(Query("*", state="champion")).versions] == [1]
    assert register(models, model, files(tmp_path / "new"), "run-new") == 3
    assert [v.number for v in models.search(Query(model, state="registered")).versions] == [3]
    assert models.verify(model) == 6


def test_the_tables_are_exactly_those_the_code_knows(engine: sa.Engine) -> None:
    migrate(engine, "head")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == newest()
        differences = [each for each in compare_metadata(context, METADATA) if "index" not in str(each[0])]
    assert differences == []


def test_each_step_can_be_taken_back_and_taken_again_without_losing_a_log(
    engine: sa.Engine, empty: Connection, servers: Servers, first_release: tuple[str, list[Any]]
) -> None:
    model, log = first_release
    migrate(engine, "head")
    with engine.begin() as connection:
        command.downgrade(config(connection), "0001")
    migrate(engine, "head")
    models = registry(empty, s3=servers.s3)
    assert models.log(model) == log
    assert [v.number for v in models.search(Query(model)).versions] == [1, 2]
    migrate(engine, "base")
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


def _opener(n: int, barrier: Any, queue: Any, conn: Connection, s3: Connection) -> None:
    models = registry(conn, s3=s3)
    barrier.wait(60)
    queue.put(models.models())


def test_four_processes_that_open_an_empty_database_at_once_make_its_tables_once(
    empty: Connection, servers: Servers
) -> None:
    assert at_once(4, _opener, empty, servers.s3) == [[], [], [], []]


@pytest.mark.parametrize("release", ["0001", "head"])
def test_nothing_that_is_in_the_log_can_be_changed_or_deleted_in_the_database(
    engine: sa.Engine, empty: Connection, servers: Servers, first_release: tuple[str, list[Any]], release: str
) -> None:
    model, _ = first_release
    migrate(engine, release)
    for statement in (
        "UPDATE log SET document = ''",
        "DELETE FROM log",
        "TRUNCATE log",
        "UPDATE manifest SET document = ''",
        "DELETE FROM manifest",
        "TRUNCATE manifest",
    ):
        with pytest.raises(Exception, match="append-only"):
            execute(empty, statement)
    models: Registry = registry(empty, s3=servers.s3)
    assert models.verify(model) == 5
