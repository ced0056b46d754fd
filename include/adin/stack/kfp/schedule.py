"""Recurring runs: when the next one is due, and starting it."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from adin.errors import AdinError, ConfigError, NotFoundError
from adin.stack.kfp import spec as specs
from adin.stack.kfp.catalog import default_experiment
from adin.stack.kfp.query import stamp, timestamp
from adin.stack.kfp.runs import Runs
from adin.stack.kfp.store import Doc, Store

_LOG = logging.getLogger(__name__)
_UNENDED = "recurring_run_id = ? AND state NOT IN ('SUCCEEDED', 'SKIPPED', 'FAILED', 'CANCELED')"
_KEPT = ("description", "pipeline_spec", "pipeline_version_reference", "runtime_config", "service_account")


class Schedule:
    """The recurring runs of one local KFP."""

    def __init__(self, store: Store, runs: Runs) -> None:
        self._store = store
        self._runs = runs

    def create(self, body: Mapping[str, Any]) -> Doc:
        """Create a recurring run and return it.

        Missed times are caught up only if the body says ``no_catchup: false``; silence means no.

        :raises ConfigError: the trigger, the pipeline or an argument is wrong.
        """
        if not body.get("display_name"):
            raise ConfigError("The recurring run has no display_name.")
        trigger = _trigger(body.get("trigger") or {})
        limit = str(body.get("max_concurrency") or 1)
        if not (limit.isdecimal() and 1 <= int(limit) <= 10):
            raise ConfigError(f"max_concurrency must be between 1 and 10, not {limit}.")
        spec = self._runs.spec_of(body)
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        specs.arguments(spec, {key: _filled(value, _macros(datetime.now(UTC), 1, "")) for key, value in given.items()})
        experiment = body.get("experiment_id") or default_experiment(self._store)["id"]
        self._store.get("experiment", experiment)
        now = stamp(datetime.now(UTC))
        mode = "DISABLE" if body.get("mode") == "DISABLE" else "ENABLE"
        doc: Doc = {
            "id": str(uuid.uuid4()),
            "experiment_id": experiment,
            "display_name": body["display_name"],
            "trigger": trigger,
            "max_concurrency": limit,
            "no_catchup": bool(body.get("no_catchup", True)),
            "mode": mode,
            "status": f"{mode}D",
            "created_at": now,
            "updated_at": now,
            **{key: body[key] for key in _KEPT if body.get(key)},
            "_last": "",
            "_index": 0,
        }
        self._store.put("recurring run", doc["id"], doc)
        return doc

    def switch(self, key: str, mode: str) -> None:
        """Enable or disable a recurring run; twice is as good as once.

        :param mode: ``ENABLE`` or ``DISABLE``.
        """
        with self._store.transaction():
            doc = self._store.get("recurring run", key)
            changed = {"mode": mode, "status": f"{mode}D", "updated_at": stamp(datetime.now(UTC))}
            self._store.put("recurring run", key, doc | changed)

    def tick(self) -> None:
        """Start what is due."""
        now = datetime.now(UTC)
        for doc in self._store.find("recurring run", status="ENABLED"):
            if self._store.count("run", _UNENDED, [doc["id"]]) >= int(doc["max_concurrency"]):
                continue
            try:
                moment = due(doc, now)
                if moment is not None:
                    self._fire(doc, moment)
            except AdinError as error:
                self._give_up(doc["id"], str(error))
            except Exception as error:  # the other recurring runs go on
                _LOG.exception("Recurring run %s", doc["display_name"])
                self._give_up(doc["id"], f"{type(error).__name__}: {error}")

    def _give_up(self, key: str, why: str) -> None:
        """Disable a recurring run that cannot be started; one that was deleted meanwhile stays so."""
        with self._store.transaction(), contextlib.suppress(NotFoundError):
            doc = self._store.get("recurring run", key)
            _LOG.warning("Recurring run %s disabled: %s", doc["display_name"], why)
            changed = {"mode": "DISABLE", "status": "DISABLED", "error": {"code": 3, "message": why}}
            self._store.put("recurring run", key, doc | changed)

    def _fire(self, doc: Doc, moment: datetime) -> None:
        run_id, index = str(uuid.uuid4()), doc["_index"] + 1
        macros = _macros(moment, index, run_id)
        config = dict(doc.get("runtime_config") or {})
        config["parameters"] = {key: _filled(value, macros) for key, value in (config.get("parameters") or {}).items()}
        body = {key: doc[key] for key in _KEPT if key in doc} | {
            "display_name": f"{doc['display_name']}-{moment:%Y%m%d%H%M%S}",
            "experiment_id": doc["experiment_id"],
            "recurring_run_id": doc["id"],
            "runtime_config": config,
        }
        with self._store.transaction():
            if self._store.get("recurring run", doc["id"])["status"] != "ENABLED":
                return  # somebody disabled it just now
            self._runs.create(body, run_id=run_id, scheduled_at=stamp(moment))
            self._store.put("recurring run", doc["id"], doc | {"_last": stamp(moment), "_index": index})


def due(doc: Doc, now: datetime) -> datetime | None:
    """Return the time for which a recurring run must start now, None if it need not.

    After a pause that is the first time missed with catch-up, the last one without.
    """
    (kind, schedule), *_ = doc["trigger"].items()
    start = _moment(schedule.get("start_time"))
    last = _moment(doc["_last"]) or max(filter(None, [start, _moment(doc["created_at"])]))
    end = _moment(schedule.get("end_time")) or now
    limit = min(now, end)
    step = _periodic if kind == "periodic_schedule" else _cron
    return step(schedule, last, limit, bool(doc["no_catchup"]))


def _periodic(schedule: Doc, last: datetime, limit: datetime, latest: bool) -> datetime | None:
    interval = timedelta(seconds=int(schedule["interval_second"]))
    times = (limit - last) // interval
    if times < 1:
        return None
    return last + interval * (times if latest else 1)


def _cron(schedule: Doc, last: datetime, limit: datetime, latest: bool) -> datetime | None:
    from croniter import croniter

    options = {"ret_type": datetime, "second_at_beginning": True}
    if latest:
        # a moment on the stroke itself counts
        moment: datetime = croniter(schedule["cron"], limit + timedelta(microseconds=1), **options).get_prev()
        return moment if moment > last else None
    moment = croniter(schedule["cron"], last, **options).get_next()
    return moment if moment <= limit else None


def _trigger(trigger: Mapping[str, Any]) -> Doc:
    periodic, cron = trigger.get("periodic_schedule"), trigger.get("cron_schedule")
    if bool(periodic) == bool(cron):
        raise ConfigError("The trigger must have either a periodic_schedule or a cron_schedule.")
    schedule = dict(periodic or cron or {})
    for bound in ("start_time", "end_time"):
        if schedule.get(bound):
            schedule[bound] = timestamp(schedule[bound])
    if periodic:
        seconds = str(schedule.get("interval_second") or "")
        if not seconds.isdigit() or int(seconds) < 1:
            raise ConfigError(f"interval_second must be a whole number from 1 on, not {seconds!r}.")
        return {"periodic_schedule": schedule | {"interval_second": seconds}}
    return {"cron_schedule": _checked_cron(schedule)}


def _checked_cron(schedule: Doc) -> Doc:
    from croniter import CroniterError, croniter

    text = str(schedule.get("cron") or "")
    if len(text.split()) != 6 or not croniter.is_valid(text, second_at_beginning=True):
        raise ConfigError(f"{text!r} is not a cron expression of six fields, seconds first.", "Example: `0 0 3 * * 1`.")
    try:
        croniter(text, datetime.now(UTC), second_at_beginning=True).get_next()
    except CroniterError:
        raise ConfigError(f"The time of {text!r} never comes.", "Example: `0 0 3 * * 1`.") from None
    return schedule


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _macros(moment: datetime, index: int, run_id: str) -> dict[str, str]:
    """Return what stands for each of KFP's macros in the run of a moment."""
    return {
        "[[ScheduledTime]]": moment.strftime("%Y%m%d%H%M%S"),
        "[[CurrentTime]]": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
        "[[Index]]": str(index),
        "[[RunUUID]]": run_id,
    }


def _has_macro(value: Any) -> bool:
    return isinstance(value, str) and "[[" in value


def _filled(value: Any, macros: Mapping[str, str]) -> Any:
    if _has_macro(value):
        for macro, text in macros.items():
            value = value.replace(macro, text)
    return value
