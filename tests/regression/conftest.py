"""Fixtures of all regression tests."""

from __future__ import annotations

from judging import judge, whose  # noqa: F401 - fixtures
from spark_project import spark  # noqa: F401 - a fixture
