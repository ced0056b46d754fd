"""Tables to search by, notes, and exact rules of what may be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT = sa.Text(collation="C")

_RULES = """
CREATE FUNCTION refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'manifest' THEN
        IF NOT EXISTS (SELECT FROM log WHERE log.model = OLD.model AND log.event = 'register'
                       AND log.document::json #>> '{evidence,manifest}' = to_json(OLD) ->> 'sha256') THEN
            RETURN OLD;
        END IF;
    ELSIF OLD.model LIKE '.doctor%' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME;
END $$
"""


def upgrade() -> None:
    """Make the tables, and let a manifest go that no log entry names; the index is filled at the first search."""
    op.add_column(
        "manifest", sa.Column("stored", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
    )
    op.create_index("log_model", "log", ["model"], postgresql_where=sa.text("seq = 1"))
    op.create_table(
        "head", sa.Column("model", _TEXT, primary_key=True), sa.Column("seq", sa.BigInteger, nullable=False)
    )
    version = op.create_table(
        "version",
        sa.Column("model", _TEXT, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("dataset", _TEXT, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tags", sa.dialects.postgresql.JSONB, nullable=False),
        sa.Column("features", sa.ARRAY(sa.Text), nullable=False),
    )
    assert version is not None
    op.create_index("version_dataset", "version", ["dataset"])
    op.create_index("version_created", "version", ["created", "model", "number"])
    op.create_index("version_owner", "version", ["owner"])
    op.create_index("version_state", "version", ["state"])
    op.create_index("version_tags", "version", ["tags"], postgresql_using="gin")
    op.create_index("version_features", "version", ["features"], postgresql_using="gin")
    op.create_table(
        "metric",
        sa.Column("model", _TEXT, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("split", sa.Text, primary_key=True),
        sa.Column("slice", sa.Text, primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
    )
    op.create_index("metric_value", "metric", ["name", "split", "slice", "value", "model", "number"])
    op.create_table(
        "note",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.execute(_RULES)
    for table in ("log", "manifest"):
        op.execute(f"DROP TRIGGER append_only ON {table}")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"CREATE TRIGGER keep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_delete()")


def downgrade() -> None:
    """Drop what the upgrade made; logs and manifests stay."""
    for table in ("log", "manifest"):
        op.execute(f"DROP TRIGGER keep ON {table}")
        op.execute(f"DROP TRIGGER append_only ON {table}")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("DROP FUNCTION refuse_delete()")
    for table in ("note", "metric", "version", "head"):
        op.drop_table(table)
    op.drop_index("log_model", "log")
    op.drop_column("manifest", "stored")
