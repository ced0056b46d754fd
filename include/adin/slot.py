"""When a run may go: off-peak hours in a time zone, and enough of the machine free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_FORM = re.compile(r"(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})\s+(\S+)")
_SIZES = {"M": 1e6, "G": 1e9, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class OffPeak:
    """Hours of each day, such as ``22:00-06:00 Asia/Tehran``; an end before the start lies on the next day.

    Wall-clock times of the zone: where a clock change repeats an hour it belongs to the hours both times.
    """

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> OffPeak:
        """Read the hours; :raises ValueError: they are none."""
        found = _FORM.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} are no hours; write 22:00-06:00 Asia/Tehran")
        try:
            start, end = (time.fromisoformat(part.zfill(5)) for part in found.groups()[:2])
        except ValueError:
            raise ValueError(f"{text!r} names a time that is none; write 22:00-06:00 Asia/Tehran") from None
        if start == end:
            raise ValueError(f"{text!r} is empty; leave it out if any time is right")
        try:
            return cls(start, end, ZoneInfo(found[3]))
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{found[3]!r} is no time zone; write one such as Europe/London") from None

    def holds(self, at: datetime) -> bool:
        """Tell whether an instant lies in the hours; the end does not."""
        clock = at.astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end

    def opens(self, at: datetime) -> datetime:
        """Return the first minute from an instant on that lies in the hours, UTC."""
        minute = at.astimezone(UTC).replace(second=0, microsecond=0)
        if minute < at:
            minute += timedelta(minutes=1)
        return (
            at if self.holds(at) else next(m for n in range(2 * 1440) if self.holds(m := minute + timedelta(minutes=n)))
        )


def size(text: str) -> float:
    """Return a number of bytes from ``500M``, ``4G`` or ``4Gi``."""
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * _SIZES[unit]


def taken(cpu: float, memory: str) -> str:
    """Return what this machine lacks of so many processors and so much memory; empty if both are free.

    On Kubernetes the cluster's scheduler does this: a step waits until what it requests is free.
    """
    import psutil

    idle = psutil.cpu_count() * (1 - psutil.cpu_percent(interval=1) / 100)
    available = psutil.virtual_memory().available
    lacks = []
    if idle < cpu:
        lacks.append(f"{idle:.1f} processors are idle, {cpu:g} are wanted")
    if available < size(memory):
        lacks.append(f"{available / 1e9:.1f} GB of memory are free, {memory} are wanted")
    return "; ".join(lacks)
