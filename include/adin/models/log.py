"""The log of a model: the only thing that changes, and therefore the only place that says who is champion.

Entries are numbered without gaps, each holds the hash of the one before, and the state of a model is what its
entries add up to. An entry is the change itself, so the record and the change can never differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import uuid4

from pydantic import BeforeValidator, Field

from adin.errors import DataError, RefusedError
from adin.models.manifest import jsonable
from adin.models.record import Record, linked

Event = Literal[
    "register", "validate", "hold", "challenge", "promote", "reject", "retire",
    "freeze", "unfreeze", "ct_mode", "rollback", "served", "undone", "alias", "expire",
]  # fmt: skip
Mode = Literal["auto_deploy", "train_only", "stopped"]
VersionState = Literal["registered", "validated", "challenger", "champion", "retired", "rejected"]

EVENTS: tuple[Event, ...] = get_args(Event)
MODES: tuple[Mode, ...] = get_args(Mode)

#: Plain steps of one version: from which states, to which.
_STEPS: dict[str, tuple[set[VersionState], VersionState]] = {
    "validate": ({"registered"}, "validated"),
    "hold": ({"registered"}, "registered"),  # was judged, and nothing was decided
    "challenge": ({"validated"}, "challenger"),
    "reject": ({"registered", "validated", "challenger"}, "rejected"),
    "retire": ({"registered", "validated", "challenger"}, "retired"),
}
_PROMOTABLE: set[VersionState] = {"validated", "challenger"}
_ROLLBACK_TARGETS: set[VersionState] = {"validated", "challenger", "retired", "champion"}


#: Names the log gives itself; and v1, v2, .. would be taken for numbers.
_OWN_ALIAS = re.compile(r"(?!(champion|challenger|previous|latest|v\d+)$)[a-z][a-z0-9_-]{0,49}")


class Entry(Record):
    """One change of a model, with who, when, why, and how things stand after it.

    :param version: version the event is about; None for events of the whole model.
    :param alias: name that an ``alias`` event gives to its version, or takes away where it has none.
    :param run_key: key of the work that wrote it; a repeated run finds its entry instead of writing another.
    :param aliases: versions by alias after the event: champion, challenger, previous and the users' own.
    :param mode: mode of continuous training after the event.
    :param frozen: whether the champion is pinned after the event.
    """

    event: Event
    alias: str = ""
    evidence: Annotated[dict[str, Any], BeforeValidator(jsonable)] = Field(default_factory=dict)
    run_key: str = ""
    aliases: dict[str, int] = Field(default_factory=dict)
    mode: Mode = "auto_deploy"
    frozen: bool = False


@dataclass(frozen=True)
class _Before:
    """How things stood before the last change of champion."""

    event: Event
    champion: int | None
    previous: int | None
    version_state: VersionState
    frozen: bool


@dataclass
class State:
    """How a model stands after some entry of its log.

    :param champion: version that is, or is about to be, under load.
    :param previous: champion before the last change.
    :param served: last version a model server was seen to answer with, None after a change of champion.
    :param mode: ``auto_deploy``, ``train_only`` or ``stopped``.
    :param frozen: whether promotion is forbidden.
    :param versions: state of each version.
    :param own: versions behind the users' own aliases.
    :param crowned: versions that were champion at some time.
    :param expired: versions whose files were given up; what they were is still told.
    :param seq: number of the last entry, and :param head: its hash.
    """

    model: str
    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None
    served: int | None = None
    mode: Mode = "auto_deploy"
    frozen: bool = False
    versions: dict[int, VersionState] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    crowned: set[int] = field(default_factory=set)
    expired: set[int] = field(default_factory=set)
    seq: int = 0
    head: str = ""
    _before: _Before | None = field(default=None, repr=False, compare=False)

    @property
    def aliases(self) -> dict[str, int]:
        """Return the version behind each alias that is set."""
        named = {"champion": self.champion, "challenger": self.challenger, "previous": self.previous}
        return {alias: version for alias, version in named.items() if version is not None} | self.own

    @property
    def next_version(self) -> int:
        """Return the number the next version gets; numbers are never used again."""
        return len(self.versions) + 1

    def copy(self) -> State:
        """Return a state of its own, which may be changed."""
        return replace(
            self,
            versions=dict(self.versions),
            own=dict(self.own),
            crowned=set(self.crowned),
            expired=set(self.expired),
        )


def state(model: str, entries: Iterable[Entry], start: State | None = None) -> State:
    """Return what a log adds up to.

    :param entries: in order, without gaps.
    :param start: state to go on from; it is changed in place. Default the empty log.
    :raises DataError: the chain is broken, or an entry contradicts those before it.
    """
    now = start or State(model)
    for entry in linked(entries, model, now.seq, now.head):
        where = f"The log of {model} is broken at entry {entry.seq}"
        try:
            _apply(now, entry.event, entry.version, entry.mode, entry.alias)
        except RefusedError as error:
            raise DataError(f"{where}: {error}", "Restore the log from a backup.") from None
        if (now.aliases, now.mode, now.frozen) != (entry.aliases, entry.mode, entry.frozen):
            raise DataError(f"{where}: it states another outcome than its event has.", "Restore the log.")
        now.seq, now.head = entry.seq, entry.hash
    return now


def manifest_digests(entries: Iterable[Entry]) -> dict[int, str]:
    """Return the hash of each version's manifest, by the version's number."""
    return {entry.version or 0: str(entry.evidence["manifest"]) for entry in entries if entry.event == "register"}


def following(
    now: State,
    event: Event,
    *,
    version: int | None,
    actor: str,
    reason: str,
    mode: Mode | None = None,
    alias: str = "",
    evidence: dict[str, Any] | None = None,
    run_key: str = "",
) -> Entry:
    """Return the entry that would come next; ``now`` is changed to the state after it.

    :param mode: mode after the event; only ``ct_mode``, ``rollback`` and ``unfreeze`` may change it.
    :raises RefusedError: the event is not allowed as things stand.
    :raises DataError: the actor or the reason is missing.
    """
    seq, head = now.seq + 1, now.head
    _apply(now, event, version, mode or now.mode, alias)
    return Entry.sealed(
        model=now.model,
        seq=seq,
        id=uuid4().hex,
        event=event,
        version=version,
        alias=alias,
        actor=actor,
        time=datetime.now(UTC),
        reason=reason,
        evidence=evidence or {},
        run_key=run_key,
        previous=head,
        aliases=now.aliases,
        mode=now.mode,
        frozen=now.frozen,
    )


def _apply(now: State, event: Event, version: int | None, mode: Mode, alias: str = "") -> None:
    if event == "alias":
        return _alias(now, version, alias)
    if event in _STEPS:
        return _step(now, event, _known(now, event, version))
    _CHANGES[event](now, version, mode)


def _known(now: State, event: str, version: int | None) -> int:
    if version not in now.versions:
        raise RefusedError(f"{now.model} has no version {version}.", f"The event {event} needs a registered version.")
    assert version is not None
    if version in now.expired:
        raise RefusedError(f"{event} of {now.model} version {version} is refused: its files were given up.")
    return version


def _must_be(now: State, event: str, version: int, allowed: set[VersionState]) -> None:
    if now.versions[version] not in allowed:
        raise RefusedError(
            f"{event} of {now.model} version {version} is refused: it is {now.versions[version]}.",
            f"It must be {' or '.join(sorted(allowed))}.",
        )


def _step(now: State, event: str, version: int) -> None:
    allowed, after = _STEPS[event]
    _must_be(now, event, version, allowed)
    if event == "challenge" and now.challenger is not None:
        now.versions[now.challenger] = "validated"
    if event == "challenge":
        now.challenger = version
    elif now.challenger == version:
        now.challenger = None
    now.versions[version] = after


def _register(now: State, version: int | None, _: Mode) -> None:
    if version != now.next_version:
        raise RefusedError(f"The next version of {now.model} is {now.next_version}, not {version}.")
    now.versions[now.next_version] = "registered"


def _promote(now: State, version: int | None, _: Mode) -> None:
    version = _known(now, "promote", version)
    _must_be(now, "promote", version, _PROMOTABLE)
    if now.frozen:
        raise RefusedError(
            f"{now.model} is frozen at version {now.champion}: version {version} is not promoted.",
            f"Lift the pin with `adin model unfreeze {now.model}`.",
        )
    _crown(now, "promote", version)


def _rollback(now: State, version: int | None, mode: Mode) -> None:
    version = _known(now, "rollback", version)
    _must_be(now, "rollback", version, _ROLLBACK_TARGETS)
    _crown(now, "rollback", version)
    now.frozen, now.mode = True, mode


def _unfreeze(now: State, version: int | None, mode: Mode) -> None:
    if version is not None:
        version = _known(now, "unfreeze", version)
        _must_be(now, "unfreeze", version, _ROLLBACK_TARGETS)
        _crown(now, "unfreeze", version)
    now.frozen, now.mode = False, mode


def _crown(now: State, event: Event, version: int) -> None:
    now._before = _Before(event, now.champion, now.previous, now.versions[version], now.frozen)
    if version == now.champion:
        return
    if now.champion is not None:
        now.versions[now.champion] = "retired"
    if now.challenger == version:
        now.challenger = None
    now.champion, now.previous, now.served = version, now.champion, None
    now.versions[version] = "champion"
    now.crowned.add(version)


def _undone(now: State, version: int | None, _: Mode) -> None:
    before = now._before
    if before is None or version != now.champion or version is None:
        raise RefusedError(
            f"There is no change of champion to version {version} of {now.model} to undo.",
            f"The champion is {now.champion}.",
        )
    # a challenger whose swap failed is free to try again, but not as the challenger
    now.versions[version] = "validated" if before.version_state == "challenger" else before.version_state
    now.champion, now.previous, now.served = before.champion, before.previous, None
    if before.champion is not None:
        now.versions[before.champion] = "champion"
    if before.event != "promote":
        now.frozen = before.frozen
    now._before = None


def _served(now: State, version: int | None, _: Mode) -> None:
    version = _known(now, "served", version)
    _must_be(now, "served", version, {"champion"})
    now.served = version


def _freeze(now: State, version: int | None, _: Mode) -> None:
    if version not in (None, now.champion):
        raise RefusedError(f"Only the champion of {now.model}, version {now.champion}, can be pinned, not {version}.")
    now.frozen = True


def _alias(now: State, version: int | None, alias: str) -> None:
    if not _OWN_ALIAS.fullmatch(alias):
        raise RefusedError(
            f"{alias!r} cannot be an alias.",
            "Use lower case letters, digits, _ and -; champion and the like are taken.",
        )
    if version is not None:
        now.own[alias] = _known(now, "alias", version)
    elif now.own.pop(alias, None) is None:
        raise RefusedError(f"{now.model} has no alias {alias}.")


def _expire(now: State, version: int | None, _: Mode) -> None:
    version = _known(now, "expire", version)
    if version in now.crowned or version in now.aliases.values():
        raise RefusedError(f"Version {version} of {now.model} was champion or has an alias: its files are kept.")
    now.expired.add(version)


def _ct_mode(now: State, _: int | None, mode: Mode) -> None:
    now.mode = mode


_CHANGES: dict[str, Callable[[State, int | None, Mode], None]] = {
    "register": _register,
    "promote": _promote,
    "rollback": _rollback,
    "unfreeze": _unfreeze,
    "freeze": _freeze,
    "undone": _undone,
    "served": _served,
    "ct_mode": _ct_mode,
    "expire": _expire,
}
