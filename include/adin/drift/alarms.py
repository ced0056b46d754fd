"""The alarms of drift, as they stand: what the alert service tells and takes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from adin.connections import Connection
from adin.datasets.clickhouse import literal
from adin.drift.checks import Finding, Kind
from adin.drift.tables import ALARMS, Store, store

State = Literal["active", "resolved"]
_COLUMNS = "problem, kind, subject, check, state, since, value, limit, report"


@dataclass(frozen=True)
class Alarm:
    """One alarm; problem, kind, subject and check are its identity.

    :param kind: ``data``, ``label``, ``concept`` or ``quality``.
    :param subject: the feature, the label, ``rows`` or ``champion``.
    :param check: which statistic is over the limit.
    :param since: first day of the windows over the limit.
    :param report: path of the report below Airflow's address.
    """

    problem: str
    kind: Kind
    subject: str
    check: str
    state: State
    since: date
    value: float
    limit: float
    report: str

    @property
    def identity(self) -> tuple[str, Kind, str, str]:
        """Return what tells the alarm from others, whatever its value."""
        return self.problem, self.kind, self.subject, self.check


def active(problem: str, *, conn: Connection | None = None) -> list[Alarm]:
    """Return the alarms of a problem that go on."""
    return [alarm for alarm in current(problem, conn=conn) if alarm.state == "active"]


def current(problem: str, *, conn: Connection | None = None) -> list[Alarm]:
    """Return how each alarm a problem ever had stands, resolved ones included."""
    with store(conn) as tables:
        return _current(tables, problem)


def update(tables: Store, problem: str, findings: Sequence[Finding], report: str) -> list[Alarm]:
    """Write what changed since the last check, all at once, and return it; the same findings again change nothing."""
    known = {alarm.identity: alarm for alarm in _current(tables, problem)}
    now = {alarm.identity: alarm for alarm in (_alarm(problem, each, report) for each in findings if each.active)}
    over = [alarm for identity, alarm in known.items() if alarm.state == "active" and identity not in now]
    values = {(problem, each.kind, each.subject, each.check): each.value for each in findings}
    changed = [alarm for identity, alarm in now.items() if known.get(identity) != alarm]
    changed += [_resolved(alarm, values.get(alarm.identity), report) for alarm in over]
    if changed:
        rows = ", ".join(f"({_values(alarm)}, now64(6, 'UTC'))" for alarm in changed)
        tables.client.command(f"INSERT INTO {tables.table(ALARMS)} ({_COLUMNS}, changed) VALUES {rows}")
    return changed


def new(changed: Sequence[Alarm], before: Sequence[Alarm]) -> list[Alarm]:
    """Return the alarms among the changed that were not active before."""
    going = {alarm.identity for alarm in before if alarm.state == "active"}
    return [alarm for alarm in changed if alarm.state == "active" and alarm.identity not in going]


def _current(tables: Store, problem: str) -> list[Alarm]:
    rows = tables.rows(
        f"SELECT {_COLUMNS} FROM {tables.table(ALARMS)} WHERE problem = {literal(problem)} "
        "ORDER BY changed DESC LIMIT 1 BY problem, kind, subject, check"
    )
    return sorted((Alarm(*row) for row in rows), key=lambda alarm: alarm.identity)


def _alarm(problem: str, each: Finding, report: str) -> Alarm:
    assert each.since is not None
    since = date.fromisoformat(each.since)
    value = each.value or 0.0
    return Alarm(problem, each.kind, each.subject, each.check, "active", since, value, each.limit, report)


def _resolved(alarm: Alarm, value: float | None, report: str) -> Alarm:
    found = alarm.value if value is None else value
    return Alarm(*alarm.identity, "resolved", alarm.since, found, alarm.limit, report)


def _values(alarm: Alarm) -> str:
    texts = ", ".join(map(literal, (*alarm.identity, alarm.state, str(alarm.since))))
    return f"{texts}, {alarm.value!r}, {alarm.limit!r}, {literal(alarm.report)}"
