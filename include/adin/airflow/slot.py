"""The wait for off-peak hours and free resources, for problems that ask for one in ``run``."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, get_current_context, task

from adin.problem import Problem, problem

log = logging.getLogger(__name__)

#: How long a run waits; the hours come every day.
_WAIT = timedelta(hours=26)


def fields(spec: Problem) -> dict[str, Param]:
    """Return the form's field of a problem that waits."""
    if not _waits(spec):
        return {}
    told = "Do not wait for off-peak hours and free resources."
    return {"at_once": Param(False, type="boolean", title="At once", description_md=told)}


def between(spec: Problem, before: Any, after: Any, name: str) -> None:
    """Let a task follow another, and between them the wait if the problem has one."""
    if _waits(spec):
        before >> wait.override(task_id=name)(spec.name) >> after
    else:
        before >> after


@task.sensor(
    poke_interval=60,
    timeout=_WAIT.total_seconds(),
    mode="reschedule",
    soft_fail=True,
    doc_md="Waits for the off-peak hours and the free resources of problem.yaml. Writes nothing; after 26 hours it "
    "skips the run. If it fails, clear it.",
)
def wait(name: str) -> bool:
    """Return whether training may start."""
    return may_start(problem(name), at_once=bool(get_current_context()["params"].get("at_once")))


def may_start(spec: Problem, *, at_once: bool = False, now: datetime | None = None) -> bool:
    """Tell whether it is off-peak and enough is free, or a person said at once; the log says what is missing."""
    from adin.slot import OffPeak, taken

    if at_once:
        return True
    now = now or datetime.now(UTC)
    if spec.run.off_peak and not (hours := OffPeak.parse(spec.run.off_peak)).holds(now):
        log.info("not off-peak (%s) before %s UTC", spec.run.off_peak, f"{hours.opens(now):%Y-%m-%d %H:%M}")
        return False
    if spec.run.free and (lacks := taken(spec.run.free.cpu, spec.run.free.memory)):
        log.info("not enough is free: %s", lacks)
        return False
    return True


def _waits(spec: Problem) -> bool:
    return bool(spec.run.off_peak or spec.run.free)
