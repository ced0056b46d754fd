"""The log of a model: the only thing that changes, and therefore the only place that says who is champion.

Entries are numbered without gaps, each holds the hash of the one before, and the state of a model is what its
entries add up to. An entry is the change itself, so the record and the change can never differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adin.errors import DataError, RefusedError
from adin.models.manifest import jsonable
from adin.run_key import content_hash

Event = Literal[
    "register", "validate", "challenge", "promote", "reject", "retire",
    "freeze", "unfreeze", "ct_mode", "rollback", "served", "undone",
]  # fmt: skip
Mode = Literal["auto_deploy", "train_only", "stopped"]
VersionState = Literal["registered", "validated", "challenger", "champion", "retired", "rejected"]

EVENTS: tuple[Event, ...] = get_args(Event)
MODES: tuple[Mode, ...] = get_args(Mode)

#: Plain steps of one version: from which states, to which.
_STEPS: dict[str, tuple[set[VersionState], VersionState]] = {
    "validate": ({"registered"}, "validated"),
    "challenge": ({"validated"}, "challenger"),
    "reject": ({"registered", "validated", "challenger"}, "rejected"),
    "retire": ({"registered", "validated", "challenger"}, "retired"),
}
_PROMOTABLE: set[VersionState] = {"validated", "challenger"}
_ROLLBACK_TARGETS: set[VersionState] = {"validated", "challenger", "retired", "champion"}


class Entry(BaseModel):
    """One change of a model, with who, when, why, and how things stand after it.

    :param seq: place in the log, from 1.
    :param id: random; tells a writer whose reply got lost that the entry found is its own.
    :param version: version the event is about; None for events of the whole model.
    :param run_key: key of the work that wrote it; a repeated run finds its entry instead of writing another.
    :param previous: hash of the entry before, empty for the first.
    :param aliases: versions by alias after the event: champion, challenger, previous.
    :param mode: mode of continuous training after the event.
    :param frozen: whether the champion is pinned after the event.
    :param hash: SHA-256 of all the other fields.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    seq: int = Field(ge=1)
    id: str
    event: Event
    version: int | None = None
    actor: str = Field(min_length=1)
    time: datetime
    reason: str = Field(min_length=1)
    evidence: Annotated[dict[str, Any], BeforeValidator(jsonable)] = {}
    run_key: str = ""
    previous: str = ""
    aliases: dict[str, int] = {}
    mode: Mode = "auto_deploy"
    frozen: bool = False
    hash: str = ""

    @property
    def document(self) -> str:
        """Return the entry as the JSON text that is stored."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def read(cls, document: str | bytes) -> Entry:
        """Return a stored entry after its hash was checked.

        :raises DataError: the entry was changed after it was written.
        """
        try:
            facts = json.loads(document)
            claimed = facts.pop("hash")
            # hashed as stored, not as parsed: a later release may write times or fields another way
            if content_hash(facts) == claimed:
                return cls(**facts, hash=claimed)
            where = f"entry {facts['seq']} of the log of {facts['model']}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"A log entry cannot be read: {error}.", "Restore the log from a backup.") from None
        raise DataError(f"The hash of {where} does not fit its content: it was tampered with.", "Restore the log.")


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
    seq: int = 0
    head: str = ""
    _before: _Before | None = field(default=None, repr=False, compare=False)

    @property
    def aliases(self) -> dict[str, int]:
        """Return the version behind each alias that is set."""
        named = {"champion": self.champion, "challenger": self.challenger, "previous": self.previous}
        return {alias: version for alias, version in named.items() if version is not None}

    @property
    def next_version(self) -> int:
        """Return the number the next version gets; numbers are never used again."""
        return max(self.versions, default=0) + 1


def state(model: str, entries: Iterable[Entry], start: State | None = None) -> State:
    """Return what a log adds up to.

    :param entries: in order, without gaps.
    :param start: state to go on from; it is changed in place. Default the empty log.
    :raises DataError: the chain is broken, or an entry contradicts those before it.
    """
    now = start or State(model)
    for entry in entries:
        where = f"The log of {model} is broken at entry {entry.seq}"
        if entry.model != model or entry.seq != now.seq + 1 or entry.previous != now.head:
            raise DataError(f"{where}: it does not follow entry {now.seq}.", "Restore the log from a backup.")
        try:
            _apply(now, entry.event, entry.version, entry.mode)
        except RefusedError as error:
            raise DataError(f"{where}: {error}", "Restore the log from a backup.") from None
        if (now.aliases, now.mode, now.frozen) != (entry.aliases, entry.mode, entry.frozen):
            raise DataError(f"{where}: it states another outcome than its event has.", "Restore the log.")
        now.seq, now.head = entry.seq, entry.hash
    return now


def following(
    now: State,
    event: Event,
    *,
    version: int | None,
    actor: str,
    reason: str,
    mode: Mode | None = None,
    evidence: dict[str, Any] | None = None,
    run_key: str = "",
) -> Entry:
    """Return the entry that would come next; ``now`` is changed to the state after it.

    :param mode: mode after the event; only ``ct_mode``, ``rollback`` and ``unfreeze`` may change it.
    :raises RefusedError: the event is not allowed as things stand.
    :raises DataError: the actor or the reason is missing.
    """
    seq, head = now.seq + 1, now.head
    _apply(now, event, version, mode or now.mode)
    try:
        entry = Entry(
            model=now.model,
            seq=seq,
            id=uuid4().hex,
            event=event,
            version=version,
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
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"No log entry without who and why: {wrong}.", "Give an actor and a reason.") from None
    digest = content_hash(entry.model_dump(mode="json", exclude={"hash"}))
    return entry.model_copy(update={"hash": digest})


def _apply(now: State, event: Event, version: int | None, mode: Mode) -> None:
    if event in _STEPS:
        return _step(now, event, _known(now, event, version))
    _CHANGES[event](now, version, mode)


def _known(now: State, event: str, version: int | None) -> int:
    if version not in now.versions:
        raise RefusedError(f"{now.model} has no version {version}.", f"The event {event} needs a registered version.")
    assert version is not None
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


def _ct_mode(now: State, _: int | None, mode: Mode) -> None:
    now.mode = mode


_CHANGES: dict[Event, Callable[[State, int | None, Mode], None]] = {
    "register": _register,
    "promote": _promote,
    "rollback": _rollback,
    "unfreeze": _unfreeze,
    "freeze": _freeze,
    "undone": _undone,
    "served": _served,
    "ct_mode": _ct_mode,
}
