"""Run the migrations on the connection the store hands over, within its transaction."""

from __future__ import annotations

from alembic import context

from adin.models.store_database import _METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=_METADATA)
context.run_migrations()
