"""Where lakeFS keeps what it knows: metadata in PostgreSQL, blocks in the S3 store."""

from __future__ import annotations

from uuid import uuid4

import psycopg2
import pytest
from adin.connections import connection
from adin.datasets.lake import Lake


@pytest.mark.flow(20)
def test_a_branch_of_lakefs_is_a_row_in_the_stacks_postgres(stack):
    name = f"kept_in_postgres_{uuid4().hex[:8]}"
    lake = Lake()
    with postgres() as found:
        assert not rows(found, name)
        lake.ensure_branch(name)
        assert rows(found, name)
    lake.delete_branch(name)


@pytest.mark.flow(20, 24)
def test_the_blocks_of_a_file_lie_in_the_s3_store_and_its_address_in_postgres(stack):
    name = f"blocks_in_s3_{uuid4().hex[:8]}"
    lake = Lake()
    lake.ensure_branch(name)
    lake.upload(name, f"scratch/{name}.txt", b"a block")
    address = next(lake.objects(name, f"scratch/{name}.txt")).physical_address
    assert address.startswith("s3://")
    with postgres() as found:
        assert rows(found, address.rpartition("/")[2])
    lake.delete_branch(name)


def postgres():
    """Connect to the database that lakeFS was given, on the server of the others."""
    conn = connection("amversion")
    return psycopg2.connect(
        host=conn.host, port=conn.port, user=conn.login, password=conn.password, dbname="lakefs", connect_timeout=5
    )


def rows(found, text: str) -> int:
    with found.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM kv WHERE position(%s in key) > 0 OR position(%s in value) > 0", [text.encode()] * 2
        )
        return cursor.fetchone()[0]
