"""Lengths of time as problem files write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(value: Any) -> Any:
    """Read ``100ms``, ``30s``, ``60min``, ``6h``, ``1d`` or ``2w``; anything but text is handed on."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h|d|w)\s*", value)
    if not match:
        raise ValueError(f"{value!r} is no duration; write 100ms, 30s, 60min, 6h, 1d or 2w")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


Duration = Annotated[timedelta, BeforeValidator(duration)]
