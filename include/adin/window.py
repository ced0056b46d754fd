"""The window a run is for: ``[start, end)`` in UTC, decided in one place for every kind of run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from adin.errors import ConfigError


@dataclass(frozen=True, order=True)
class Window:
    """A half-open span of time.

    :param start: first instant of the window, UTC.
    :param end: first instant after it, UTC.
    :raises ConfigError: the window is empty or its times have no zone.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ConfigError("A window's times need a time zone.", "Write them as 2013-01-01T00:00:00Z.")
        object.__setattr__(self, "start", self.start.astimezone(UTC))
        object.__setattr__(self, "end", self.end.astimezone(UTC))
        if self.start >= self.end:
            raise ConfigError(f"The window {self} is empty.", "Its end must lie after its start.")

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"

    @classmethod
    def parse(cls, start: str | datetime, end: str | datetime) -> Window:
        """Make a window from ISO 8601 texts; a bare date or a time without zone is UTC."""
        return cls(_instant(start), _instant(end))

    @classmethod
    def from_text(cls, text: str) -> Window:
        """Read a window written as ``start/end``."""
        start, _, end = text.partition("/")
        return cls.parse(start, end)

    @property
    def days(self) -> list[date]:
        """Return each UTC day the window touches."""
        last = (self.end - timedelta(microseconds=1)).date()
        return [self.start.date() + timedelta(days=n) for n in range((last - self.start.date()).days + 1)]

    @property
    def whole_days(self) -> Window:
        """Return the window made of the whole days it touches."""
        return Window.parse(f"{self.days[0]}", f"{self.days[-1] + timedelta(days=1)}")


def run_window(context: Mapping[str, Any]) -> Window:
    """Return the window of an Airflow run, whatever started it.

    The first that is there decides: partition date, the parameters ``window_start`` and ``window_end``, the data
    interval, the windows in the triggering asset events. Never the clock.

    :param context: the task's context.
    :raises ConfigError: nothing says which window the run is for.
    """
    if partition := context.get("partition_date"):
        return Window(partition, partition + timedelta(days=1))
    params = context.get("params") or {}
    if bool(params.get("window_start")) != bool(params.get("window_end")):
        raise ConfigError("Half a window was given.", "Give both window_start and window_end, or neither.")
    if params.get("window_start"):
        return Window.parse(params["window_start"], params["window_end"])
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start and end and start < end:
        return Window(start, end)
    events = [event for group in (context.get("triggering_asset_events") or {}).values() for event in group]
    windows = [Window.from_text(event.extra["window"]) for event in events if "window" in (event.extra or {})]
    if windows:
        return Window(min(w.start for w in windows), max(w.end for w in windows))
    raise ConfigError(
        "This run has no window: no partition, no window_start and window_end, no data interval, no asset event.",
        "Trigger it with window_start and window_end.",
    )


def _instant(value: str | datetime) -> datetime:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigError(f"{value!r} is no time.", "Write 2013-01-01 or 2013-01-01T00:00:00Z.") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
