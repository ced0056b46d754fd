"""Alembic migrations of AMVersion's database edition; run by the store itself at first use."""
