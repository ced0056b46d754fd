"""The sources of alerts that Adin brings with it; ``settings().alert_sources`` adds others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from adin import problem
from adin.alerts import outbox
from adin.alerts.alert import Alert, Found, Severity, Source, fits
from adin.drift import alarms
from adin.errors import ConfigError
from adin.models import Registry
from adin.models.log import Entry, State
from adin.settings import settings

#: Log entries that are told as events: name of the alert, how bad, and the word for it.
_EVENTS: dict[str, tuple[str, Severity, str]] = {
    "promote": ("AdinModelPromoted", "info", "was promoted"),
    "rollback": ("AdinModelRolledBack", "warning", "is under load again by a rollback"),
    "undone": ("AdinSwapFailed", "critical", "failed under load; the former version is back"),
}
#: Time a version just registered has to be promoted until it counts as held.
_HELD_AFTER = timedelta(minutes=15)
#: Time behind which no notice is still on its way to the queue.
_LATE = timedelta(hours=1)


def sources(models: Registry) -> list[Source]:
    """Return the sources of this installation.

    :raises ConfigError: ``ADIN_ALERT_SOURCES`` names something that cannot be imported.
    """
    own: list[Source] = [LogSource(models), NoticeSource(models), DriftSource(alarms.active, problem.names)]
    return own + [_imported(name) for name in settings().alert_sources]


def _imported(name: str) -> Source:
    module, _, attribute = name.partition(":")
    try:
        made: Source = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"ADIN_ALERT_SOURCES: {name}: {error}.", "Write module:class.") from None
    return made


class LogSource:
    """What AMVersion's logs tell: promotions, rollbacks, failed swaps; training held or stopped for too long.

    A model is told about from the first look on; one that is new, from its first entry.
    """

    name, pause = "log", 0.0

    def __init__(self, models: Registry) -> None:
        self._models = models

    def look(self, position: Any, now: datetime) -> Found:
        """Read what is new in each log."""
        found = Found(position={})
        for model in self._models.models():
            entries = self._models.log(model)
            begin = len(entries) if position is None else position.get(model, 0)
            found.happened += [_event(entry) for entry in entries[begin:] if entry.event in _EVENTS]
            found.up += _conditions(self._models.state(model), entries, now)
            found.position[model] = len(entries)
        return found


def _event(entry: Entry) -> Alert:
    name, severity, words = _EVENTS[entry.event]
    version = str(entry.version)
    return Alert(
        name=name,
        severity=severity,
        # the entry's number: the same version may be promoted twice
        labels={"model": entry.model, "version": version, "entry": str(entry.seq)},
        summary=f"{entry.model}: version {version} {words}: {entry.reason}",
        detail=f"By {entry.actor}.",
        links={"page": f"/adin/models/{entry.model}", "report": f"/adin/models/{entry.model}/versions/{version}"},
        since=entry.time,
    )


def _conditions(state: State, entries: list[Entry], now: datetime) -> list[Alert]:
    labels, links = {"model": state.model}, {"page": f"/adin/models/{state.model}"}
    found = []
    stopped = _last(entries, lambda entry, before: entry.mode != (before.mode if before else "auto_deploy"))
    if state.mode != "auto_deploy" and stopped and now - stopped.time > timedelta(days=settings().alert_stopped_days):
        found.append(
            Alert(
                name="AdinTrainingStopped",
                severity="warning",
                labels=labels,
                summary=f"{state.model}: training is {state.mode} since {stopped.time:%Y-%m-%d}: {stopped.reason}",
                detail=f"By {stopped.actor}. `adin ct resume {state.model}` lets it deploy again.",
                links=links,
                since=stopped.time,
            )
        )
    held = _held(entries, now)
    if state.mode == "auto_deploy" and not state.frozen and len(held) >= settings().alert_held_runs:
        versions = ", ".join(str(entry.version) for entry in held[-5:])
        found.append(
            Alert(
                name="AdinTrainingHeld",
                severity="warning",
                labels=labels,
                summary=f"{state.model}: the last {len(held)} versions were not promoted ({versions})",
                detail="See the evidence of the last one: which limit held it back.",
                links=links | {"report": f"/adin/models/{state.model}/versions/{held[-1].version}"},
                since=held[settings().alert_held_runs - 1].time,
            )
        )
    return found


def _held(entries: list[Entry], now: datetime) -> list[Entry]:
    """Return the versions registered since somebody or something last decided what is under load."""
    decided = _last(entries, lambda entry, _: entry.event in ("promote", "rollback", "unfreeze", "ct_mode"))
    later = entries[decided.seq :] if decided else entries
    return [entry for entry in later if entry.event == "register" and now - entry.time > _HELD_AFTER]


def _last(entries: list[Entry], fits_: Callable[[Entry, Entry | None], bool]) -> Entry | None:
    pairs = zip(entries[::-1], [*entries[-2::-1], None], strict=False)
    return next((entry for entry, before in pairs if fits_(entry, before)), None)


class NoticeSource:
    """What tasks and pipelines have put in the queue."""

    name, pause = "notices", 0.0

    def __init__(self, models: Registry) -> None:
        self._models = models

    def look(self, position: Any, now: datetime) -> Found:
        """Take what is new from the queue; what comes late, numbered before others, is taken too."""
        outbox.drain(self._models.store)
        before = position or {"after": 0, "seen": {}, "up": {}}
        seen, up = dict(before["seen"]), {key: Alert.model_validate(each) for key, each in before["up"].items()}
        fresh = [each for each in outbox.notices(self._models.store, before["after"]) if each.id not in seen]
        for notice in fresh:
            seen[notice.id] = notice.seq
            if notice.alert:
                up[notice.alert.key] = notice.alert
            else:
                up = {key: each for key, each in up.items() if not _over(each, notice)}
        after = max(before["after"], int((now - _LATE).timestamp() * 1e9))
        return Found(
            up=list(up.values()),
            # what was raised and taken back between two looks has happened none the less
            happened=[each.alert for each in fresh if each.alert and each.alert.key not in up],
            position={
                "after": after,
                "seen": {id_: seq for id_, seq in seen.items() if seq > after},
                "up": {key: each.model_dump(mode="json") for key, each in up.items()},
            },
        )


def _over(alert: Alert, notice: outbox.Notice) -> bool:
    return fits(alert, notice.match) and alert.since <= notice.time


class DriftSource:
    """The alarms of the drift engine that go on.

    :param active: returns the alarms of a problem; :param problems: returns the problems there are.
    """

    name = "drift"

    def __init__(self, active: Callable[[str], Iterable[Any]], problems: Callable[[], Iterable[str]]) -> None:
        self._active, self._problems = active, problems

    @property
    def pause(self) -> float:
        """Return the seconds between two looks."""
        return settings().alert_drift_pause

    def look(self, position: Any, now: datetime) -> Found:
        """Return all alarms that go on."""
        return Found(up=[_drift(alarm, now) for name in self._problems() for alarm in self._active(name)])


_DRIFT: dict[str, tuple[str, Severity]] = {
    "data": ("AdinDataDrift", "warning"),
    "label": ("AdinLabelDrift", "warning"),
    "concept": ("AdinConceptDrift", "critical"),
    "quality": ("AdinDataQuality", "critical"),
}


def _drift(alarm: Any, now: datetime) -> Alert:
    name, severity = _DRIFT[alarm.kind]
    return Alert(
        name=name,
        severity=severity,
        labels={"problem": alarm.problem, "subject": alarm.subject, "check": alarm.check},
        summary=f"{alarm.problem}: {alarm.kind} drift of {alarm.subject}: {alarm.check} is {alarm.value:.4g}, limit "
        f"{alarm.limit:.4g}, since {alarm.since}",
        links={"report": alarm.report} if alarm.report else {},
        # the day of the data may be long ago; the alarm is as old as we have known of it
        since=now,
    )


@dataclass
class StackSource:
    """Services of the local stack that should run and are not well.

    :param status: returns how each service is, as :func:`adin.stack.control.status`.
    """

    status: Callable[[], Iterable[Any]]
    name: str = "stack"

    @property
    def pause(self) -> float:
        """Return the seconds between two looks."""
        return settings().alert_down_seconds / 4

    def look(self, position: Any, now: datetime) -> Found:
        """Ask every service; one that is ill at two looks, ``alert_down_seconds`` apart, is down."""
        ill = {each.name: each.problem or each.state for each in self.status() if _ill(each)}
        since = {name: (position or {}).get(name, now.isoformat()) for name in ill}
        down = {name: datetime.fromisoformat(at) for name, at in since.items()}
        patience = timedelta(seconds=settings().alert_down_seconds)
        up = [
            Alert(
                name="AdinServiceDown",
                severity="critical",
                labels={"service": name},
                summary=f"{name} does not answer: {ill[name]}",
                detail=f"`adin stack status`, `adin stack logs {name}`.",
                links={"page": "/adin/status"},
                since=at,
            )
            for name, at in down.items()
            if now - at >= patience
        ]
        return Found(up=up, position=since)


def _ill(health: Any) -> bool:
    """Tell whether a service is not well; one that somebody stopped, or never started, is none of our business."""
    if health.state in ("STOPPED", "ABSENT", "STARTING", "STOPPING"):
        return False
    return health.latency is None
