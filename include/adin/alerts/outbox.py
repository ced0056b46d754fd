"""The queue by which tasks and pipelines tell the alert service something, and never wait for it.

A notice is a record of the registry's own log ``.alerts``: durable, and a history that nobody can change unseen. Where
the registry does not answer, the notice is put in a folder, from which the alert service enters it later.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import Field

from adin.alerts.alert import Alert
from adin.connections import Connection, connection
from adin.models.record import Record
from adin.models.store import Store
from adin.settings import settings

log = logging.getLogger(__name__)

CHAIN = ".alerts"
#: Longest time a writer is kept waiting, seconds.
_PATIENCE = 10


class Notice(Record):
    """Something told to the alert service.

    :param alert: what is up, for ``raise``.
    :param match: values by label, for ``resolve``: alerts that fit and began before are over.
    """

    event: Literal["raise", "resolve"]
    alert: Alert | None = None
    match: dict[str, list[str]] = Field(default_factory=dict)


def raised(alert: Alert, *, actor: str) -> Notice:
    """Return the notice that an alert is up."""
    return _notice("raise", actor, alert.summary, alert=alert)


def resolved(match: dict[str, list[str]], *, actor: str, reason: str) -> Notice:
    """Return the notice that alerts are over."""
    return _notice("resolve", actor, reason, match=match)


def _notice(event: str, actor: str, reason: str, **more: object) -> Notice:
    now = datetime.now(UTC)
    facts = {"model": CHAIN, "seq": time.time_ns(), "id": uuid4().hex, "actor": actor, "time": now}
    return Notice.sealed(event=event, reason=reason or event, **facts, **more)


def tell(notice: Notice, where: Callable[[], tuple[Connection, Connection]] | None = None) -> bool:
    """Queue a notice: in the registry, or else in the folder. Never raises, and never takes longer than some seconds.

    :param where: returns the connections ``amversion`` and ``s3``; default those of the environment.
    :returns: whether the registry has it.
    """
    if not _spool(notice):
        log.error("an alert could not be kept in %s: %s", folder(), notice.reason)
    try:
        amversion, s3 = where() if where else (connection("amversion"), connection("s3"))
    except Exception as error:  # whatever is wrong, the notice lies in the folder
        log.warning("the alert waits in %s: %s", folder(), error)
        return False
    done = threading.Event()
    writing = threading.Thread(target=_write, args=(notice, amversion, s3, done), daemon=True)
    writing.start()
    writing.join(_PATIENCE)
    if done.is_set():
        _forget(notice)
    return done.is_set()


def _write(notice: Notice, amversion: Connection, s3: Connection, done: threading.Event) -> None:
    try:
        from adin.models import registry

        put(registry(amversion, s3=s3).store, notice)
        done.set()
    except Exception as error:  # as above
        log.warning("the alert waits in %s: %s", folder(), error)


def put(store: Store, notice: Notice) -> None:
    """Append a notice; numbered by time, so that writers need not wait for each other."""
    while not store.append([notice], {}):
        facts = notice.model_dump(exclude={"hash", "seq"})
        notice = Notice.sealed(**facts, seq=time.time_ns())


def notices(store: Store, after: int) -> list[Notice]:
    """Return the notices behind a number, in order."""
    return [Notice.read(document) for document in store.documents(CHAIN, after)]


def folder() -> Path:
    """Return where notices wait while the registry is away."""
    return settings().home / "alerts" / "waiting"


def waiting() -> Iterable[Path]:
    """Return the notices that wait, oldest first."""
    return sorted(folder().glob("*.json"))


def drain(store: Store) -> int:
    """Enter the notices that wait, under the id they have; return how many."""
    count = 0
    for path in waiting():
        try:
            found = Notice.read(path.read_bytes())
        except FileNotFoundError:  # its writer was faster
            continue
        # numbered anew: its own number may be older than what was read already
        put(store, Notice.sealed(**found.model_dump(exclude={"hash", "seq"}), seq=time.time_ns()))
        path.unlink(missing_ok=True)
        count += 1
    return count


def _path(notice: Notice) -> Path:
    return folder() / f"{notice.time:%Y%m%d%H%M%S%f}-{notice.id}.json"


def _spool(notice: Notice) -> bool:
    path = _path(notice)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(notice.document)
        part.rename(path)
    except OSError:
        return False
    return True


def _forget(notice: Notice) -> None:
    try:
        _path(notice).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s", error)
