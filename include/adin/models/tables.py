"""The tables of the database edition, as its migrations leave them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

METADATA = sa.MetaData()
_TEXT = sa.Text(collation="C")
LOG = sa.Table(
    "log",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
MANIFESTS = sa.Table(
    "manifest",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("stored", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
#: Last entry of each log that VERSIONS and METRICS know of.
HEADS = sa.Table(
    "head",
    METADATA,
    sa.Column("model", _TEXT, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)
VERSIONS = sa.Table(
    "version",
    METADATA,
    sa.Column("model", _TEXT, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("dataset", _TEXT, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    sa.Column("tags", postgresql.JSONB, nullable=False),
    sa.Column("features", postgresql.ARRAY(sa.Text), nullable=False),
)
METRICS = sa.Table(
    "metric",
    METADATA,
    sa.Column("model", _TEXT, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("split", sa.Text, primary_key=True),
    sa.Column("slice", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
)
NOTES = sa.Table(
    "note",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
