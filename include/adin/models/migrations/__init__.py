"""Alembic migrations of AMVersion's database edition; run by the store itself at first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def newest() -> str:
    """Return the number of the last migration, as the names of their files say; Alembic itself takes long to import."""
    return max(path.name[1:5] for path in Path(__file__).parent.glob("versions/v????_*.py"))


def config(connection: Any) -> Any:
    """Return the Alembic configuration that works on a connection, within its transaction."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made
