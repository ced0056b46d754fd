"""The online store follows what was published: load a window, load a view for the first time, tell how fresh it is."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from adin.errors import DataError
from adin.features.lease import alone
from adin.features.reader import OnlineReader, coverage
from adin.features.registry_merge import joined
from adin.features.repo import Domain, View
from adin.features.writer import Compared, Newest, WriteReport, compare, put, write
from adin.settings import settings
from adin.window import Window

if TYPE_CHECKING:
    import pyarrow as pa

    from adin.features.offline import Partition

__all__ = [
    "Compared",
    "Freshness",
    "MaterializeReport",
    "OnlineReader",
    "Progress",
    "WriteReport",
    "compare",
    "coverage",
    "freshness",
    "materialize",
    "published_window",
    "put",
    "write",
]

#: Seconds between two words of progress.
_EVERY = 2.0


@dataclass(frozen=True)
class MaterializeReport:
    """What a load of a window did.

    :param keys: entities with a row in the window, :param written: of these, changed.
    :param by: ``process``, or ``spark`` for its executors.
    """

    view: str
    window: str
    days: int
    rows: int
    keys: int
    written: int
    by: str = "process"


@dataclass(frozen=True)
class Progress:
    """How far a load is.

    :param phase: ``wait`` (for another load of the view), ``read`` (published rows) or ``write`` (entities; by Spark
        the published rows whose tasks have ended).
    :param rate: rows a second, :param remaining: seconds left at that rate.
    """

    phase: str
    done: int
    total: int
    rate: float
    remaining: float

    def __str__(self) -> str:
        if self.phase == "wait":
            return "waits for another load of the view"
        said = f"{self.phase} {self.done:,} of {self.total:,} rows, {self.rate:,.0f} rows/s"
        return f"{said}, {self.remaining:,.0f} s left" if self.done < self.total else said


@dataclass(frozen=True)
class Freshness:
    """How far the online store follows a view.

    :param published_until: end of the last published day, :param online_until: end of the last window loaded.
    :param waiting_days: published days that no load has covered.
    :param age_seconds: time since ``online_until``; None where nothing was loaded.
    """

    view: str
    published_until: datetime | None
    online_until: datetime | None
    waiting_days: int
    age_seconds: float | None


Tell = Callable[[Progress], None]


class _Teller:
    """Tells progress of one phase, not more often than every other second, and its end.

    :param done: rows done before the clock began.
    """

    def __init__(self, tell: Tell, phase: str, total: int, done: int = 0) -> None:
        self._tell, self._phase, self._total = tell, phase, total
        self._began = self._told = time.monotonic()
        self._done = self._before = done

    def add(self, rows: int) -> None:
        """Count rows."""
        self._done += rows
        now = time.monotonic()
        if now - self._told < _EVERY and self._done < self._total:
            return
        self._told = now
        rate = (self._done - self._before) / max(now - self._began, 1e-6)
        left = max(self._total - self._done, 0)
        self._tell(Progress(self._phase, self._done, self._total, rate, left / rate if rate else 0.0))

    def reach(self, done: int) -> None:
        """Count rows up to a number; nothing where it is reached already."""
        if (more := min(done, self._total) - self._done) > 0:
            self.add(more)


class _JobTeller:
    """Tells progress of a Spark job that reads and then writes the rows of a window, from what it writes down."""

    def __init__(self, tell: Tell, rows: int) -> None:
        self._tell, self._rows = tell, rows
        self._reading = _Teller(tell, "read", rows)
        self._writing: _Teller | None = None

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take what the job wrote down."""
        read, written = int(told["read"]), int(told["written"])
        if read < self._rows and not written:
            self._reading.reach(read)
        elif self._writing is None:
            self._reading.reach(self._rows)
            self._writing = _Teller(self._tell, "write", self._rows, min(written, self._rows))
        else:
            self._writing.reach(written)

    def end(self) -> None:
        """Tell that all is done; of what was too quick to be seen nothing is told."""
        self._reading.reach(self._rows)
        if self._writing is not None:
            self._writing.reach(self._rows)


def materialize(
    domain: str, view: str, window: Window, *, tell: Tell = lambda _: None, key: str = ""
) -> MaterializeReport:
    """Load the published partitions of a window into Redis and record the interval in Feast's registry.

    A window of ``online_spark_rows`` published rows or more is loaded by Spark's executors, with the same result.
    Another load of the same view is waited for.

    :param tell: called with the progress of long loads.
    :param key: run key; under one key a Spark job that goes, or has ended unseen, is found. Default: always a new one.
    :raises NotFoundError: the domain has no such view.
    :raises DataError: the window has no published partition, and the view is not one that changes on few days.
    """
    from adin.features import repo, store
    from adin.features.offline import offline

    spec = repo.domain(domain)
    found = spec.view(view)
    published = offline().partitions(found.table)
    days = [day for each in window.days if (day := each.isoformat()) in published]
    if not days and not spec.static(view):
        raise DataError(
            f"{found.table} has no published partition in {window}.", f"Run features__{domain} for the window first."
        )
    chosen = {day: published[day] for day in days}
    large = sum(part.rows for part in chosen.values()) >= settings().online_spark_rows
    key = key or uuid.uuid4().hex
    with alone(view, key, waits=lambda: tell(Progress("wait", 0, 0, 0, 0))) as held:
        if large and settings().offline_store == "hive":
            report = _by_spark(spec, found, window, chosen, tell, held, key)
        else:
            report = _in_process(found, window, chosen, tell, held)
    for loaded in [window] if spec.static(view) else _spans(window, days):
        store.record_interval(view, loaded)
    return report


def _spans(window: Window, days: list[str]) -> list[Window]:
    """Return the parts of a window that were published: a day that comes later waits to be loaded."""
    starts = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days]
    parts = [(max(at, window.start), min(at + timedelta(days=1), window.end)) for at in starts]
    return [Window(start, end) for start, end in joined(parts)]


def published_window(domain: str, view: str) -> Window:
    """Return the window of all published days of a view, for its first load.

    :raises DataError: nothing was published.
    """
    from adin.features import repo
    from adin.features.offline import offline

    found = repo.domain(domain).view(view)
    days = sorted(offline().partitions(found.table))
    if not days:
        raise DataError(f"{found.table} has no published partition.", f"Run features__{domain} first.")
    last = datetime.fromisoformat(days[-1]) + timedelta(days=1)
    return Window.parse(days[0], f"{last:%Y-%m-%d}")


def freshness(domain: str) -> list[Freshness]:
    """Return how far the online store follows each view of a domain."""
    from adin.features import repo, store
    from adin.features.offline import offline

    views = [view for view in repo.domain(domain).views if view.keys]
    loaded = store.all_intervals(view.name for view in views)
    return [_freshness(view.name, sorted(offline().partitions(view.table)), loaded[view.name]) for view in views]


def _freshness(view: str, published: list[str], loaded: list[Window]) -> Freshness:
    day = timedelta(days=1)
    starts = [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in published]
    until = loaded[-1].end if loaded else None
    return Freshness(
        view=view,
        published_until=starts[-1] + day if starts else None,
        online_until=until,
        waiting_days=sum(not any(w.start <= at and at + day <= w.end for w in loaded) for at in starts),
        age_seconds=(datetime.now(UTC) - until).total_seconds() if until else None,
    )


def _in_process(
    view: View, window: Window, days: dict[str, Partition], tell: Tell, held: Callable[[], None]
) -> MaterializeReport:
    """Read partition by partition, keep the newest row a key, and write what changed."""
    from adin.features.offline import offline

    keys = written = rows = 0
    reading = _Teller(tell, "read", sum(part.rows for part in days.values()))

    def hand_on(table: pa.Table) -> None:
        nonlocal keys, written
        writing = _Teller(tell, "write", table.num_rows)

        def go_on(rows: int) -> None:
            held()
            writing.add(rows)

        held()
        written += write(view, table, on_batch=go_on).written
        keys += table.num_rows

    newest = Newest(view, hand_on)
    # the latest days first: what older days have of the same keys is then skipped
    for table in offline().rows(view, sorted(days, reverse=True), view.columns):
        newest.add(table)
        rows += table.num_rows
        reading.add(table.num_rows)
    newest.finish()
    return MaterializeReport(view.name, str(window), len(days), rows, keys, written)


def _by_spark(
    spec: Domain,
    view: View,
    window: Window,
    days: dict[str, Partition],
    tell: Tell,
    held: Callable[[], None],
    key: str,
) -> MaterializeReport:
    """Run the Spark job ``materialize``; its result is forgotten once read, for later it says nothing of Redis."""
    from adin.features import jobs

    key = f"online-{view.name}-{key[-16:]}"
    rows = sum(part.rows for part in days.values())
    teller = _JobTeller(tell, rows)

    def hear(told: Mapping[str, Any]) -> None:
        held()
        if told:
            teller.hear(told)

    arguments = {"domain": spec.name, "view": view.name, "days": sorted(days), "rows": rows}
    done = jobs.run("materialize", key=key, arguments=arguments, on_progress=hear)
    jobs.forget(key)
    teller.end()
    return MaterializeReport(view.name, str(window), len(days), rows, done["keys"], done["written"], by="spark")
