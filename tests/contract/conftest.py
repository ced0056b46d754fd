"""Fixtures that several contract tests share."""

from __future__ import annotations

from online_stores import one, registry  # noqa: F401 - fixtures
