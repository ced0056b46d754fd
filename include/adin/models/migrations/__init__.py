"""Alembic migrations of AMVersion's database edition; run by the store itself at first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def config(connection: Any) -> Any:
    """Return the Alembic configuration that works on a connection, within its transaction."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made
