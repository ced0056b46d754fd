"""Importing Feast in half the time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def import_feast() -> None:
    """Import Feast without the run-time type checks it wraps its classes in; call it before any other import of Feast.

    ``typeguard`` reads and rewrites the source of each such class at import, which is half of the 10 seconds of
    processor time the import takes. Python's ``-O`` switches the checks off as well, but with it all asserts.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    kept = typeguard.typechecked
    typeguard.typechecked = _unchecked
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = kept


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _identity


def _identity(target: Callable[..., Any]) -> Callable[..., Any]:
    return target
