"""Importing Feast in half the time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

#: Feast's feature server, which comes with the import, sets both to a folder that goes away with this process. A child
#: that outlives it, such as the supervisor of the stack, would hand that folder on to all it starts.
_METRICS = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


def import_feast() -> None:
    """Import Feast without the run-time type checks it wraps its classes in; call it before any other import of Feast.

    ``typeguard`` reads and rewrites the source of each such class at import, which is half of the 10 seconds of
    processor time the import takes. Python's ``-O`` switches the checks off as well, but with it all asserts.
    """
    if "feast" in sys.modules:
        return
    import prometheus_client  # noqa: F401 - it must not see what Feast sets below
    import typeguard

    kept, set_by_feast = typeguard.typechecked, [name for name in _METRICS if name not in os.environ]
    typeguard.typechecked = _unchecked
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = kept
        for name in set_by_feast:
            os.environ.pop(name, None)


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _identity


def _identity(target: Callable[..., Any]) -> Callable[..., Any]:
    return target
