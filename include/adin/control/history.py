"""What a model's log tells a person who wants to go back: who was champion when, and what a pin has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from adin.errors import RefusedError
from adin.models.log import Entry, Event, Mode


@dataclass(frozen=True)
class Reign:
    """A span of time with one champion.

    :param since: time of the log entry that made it champion.
    :param event: that entry's event.
    :param replaced: champion before, None if there was none.
    """

    version: int
    since: datetime
    event: Event
    replaced: int | None


@dataclass(frozen=True)
class Standing:
    """Champion and mode of continuous training, as they were."""

    champion: int | None
    mode: Mode


@dataclass(frozen=True)
class Begun:
    """A rollback which has stopped training and has not ended.

    :param target: as it was asked for: a version, a time, or ``previous``.
    :param version: what that was resolved to.
    :param mode: mode of continuous training before.
    :param kfp_run: run that does it.
    :param pinned: whether the log has made the version champion.
    """

    run_key: str
    target: str
    version: int
    mode: Mode
    kfp_run: str
    pinned: bool


def reigns(entries: Sequence[Entry]) -> list[Reign]:
    """Return who was champion, oldest first; a change that was undone never was."""
    found: list[Reign] = []
    champion: int | None = None
    for entry in entries:
        now = entry.aliases.get("champion")
        if now != champion and entry.event == "undone":
            found.pop()
        elif now != champion and now is not None:
            found.append(Reign(now, entry.time, entry.event, champion))
        champion = now
    return found


def champion_at(entries: Sequence[Entry], moment: datetime) -> int:
    """Return the champion of a moment.

    :raises RefusedError: there was none yet.
    """
    held = [reign for reign in reigns(entries) if reign.since <= moment]
    if not held:
        first = next(iter(reigns(entries)), None)
        when = f"The first came at {first.since:%Y-%m-%dT%H:%M:%SZ}." if first else "There was never one."
        raise RefusedError(f"There was no champion at {moment:%Y-%m-%dT%H:%M:%SZ}.", when)
    return held[-1].version


def previous_champion(entries: Sequence[Entry]) -> int:
    """Return the version the champion took the place of when it was promoted.

    After a rollback from 5 to 3 that is what 3 had replaced, not 5: going back twice goes further back.

    :raises RefusedError: there is none.
    """
    held = reigns(entries)
    if held:
        own = [reign for reign in held if reign.version == held[-1].version]
        crowned = next((reign for reign in reversed(own) if reign.event == "promote"), own[0])
        if crowned.replaced is not None:
            return crowned.replaced
    raise RefusedError("There is no champion before this one.", "Name a version.")


def before_pin(entries: Sequence[Entry]) -> Standing | None:
    """Return champion and mode before the rollback that pinned the model; None if no rollback did."""
    places: list[int] = []
    lifted: list[int] = []
    for place, entry in enumerate(entries):
        if entry.event == "rollback":
            places.append(place)
        elif entry.event == "undone" and places and entry.version == entries[places[-1]].version:
            places.pop()
        elif entry.event == "undone" and entry.frozen and not places:  # the return of the former champion failed
            places = lifted
        if not entry.frozen:
            places, lifted = [], places
    if not places:
        return None
    first = places[0]
    key = entries[first].run_key
    stopped = next((place for place, entry in enumerate(entries) if _stops(entry) and entry.run_key == key), first)
    mode = _mode_before(entries, stopped)
    return Standing(entries[first - 1].aliases.get("champion"), mode)


def unpinned(entries: Sequence[Entry]) -> Standing | None:
    """Return champion and mode before the unfreeze that made the champion; None if something else made it."""
    for place in range(len(entries) - 1, 0, -1):
        before = entries[place - 1]
        if entries[place].aliases.get("champion") != before.aliases.get("champion"):
            return Standing(before.aliases.get("champion"), before.mode) if entries[place].event == "unfreeze" else None
    return None


def begun(entries: Sequence[Entry]) -> Begun | None:
    """Return the rollback that was begun and has not ended, None if there is none."""
    place = next((n for n in range(len(entries) - 1, -1, -1) if _stops(entries[n])), None)
    if place is None or any(entry.event in ("ct_mode", "unfreeze") for entry in entries[place + 1 :]):
        return None
    entry = entries[place]
    asked = entry.evidence["rollback"]
    version = int(asked["version"])
    after = [each for each in entries[place + 1 :] if each.event in ("rollback", "undone")]
    pinned = bool(after) and (after[-1].event, after[-1].version) == ("rollback", version)
    return Begun(entry.run_key, asked["target"], version, _mode_before(entries, place), asked["kfp_run"], pinned)


def before_begun(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries before the rollback that has not ended, and before those it took over from; all if none is."""
    first = len(entries)
    for place in range(len(entries) - 1, -1, -1):
        if _stops(entries[place]):
            first = place
        elif entries[place].event in ("ct_mode", "unfreeze"):
            break
    return entries[:first]


def _stops(entry: Entry) -> bool:
    return entry.event == "ct_mode" and entry.mode == "stopped" and "rollback" in entry.evidence


def _mode_before(entries: Sequence[Entry], place: int) -> Mode:
    """Return the mode before an entry; one that took over from an unfinished rollback says what that one found."""
    told: Mode | None = entries[place].evidence.get("rollback", {}).get("mode") if _stops(entries[place]) else None
    return told or (entries[place - 1].mode if place else "auto_deploy")
