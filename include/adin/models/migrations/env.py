"""Run the migrations on the connection the store hands over, within its transaction."""

from __future__ import annotations

from alembic import context

from adin.models.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
