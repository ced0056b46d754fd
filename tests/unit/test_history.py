"""What the log tells about the past: who was champion when, and where a pin leads back to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from adin.control.history import Standing, before_pin, begun, champion_at, previous_champion, reigns
from adin.errors import RefusedError
from adin.models.log import Entry, following, state

pytestmark = pytest.mark.flow(21)

START = datetime(2026, 1, 1, tzinfo=UTC)


def play(*steps: tuple[Any, ...]) -> list[Entry]:
    """Write events ``(event, version, mode, evidence, run_key)``, one an hour."""
    entries: list[Entry] = []
    for event, version, *more in steps:
        mode, evidence, key = (*more, *[None] * 3)[:3]
        entry = following(
            state("m", entries),
            event,
            version=version,
            actor="test",
            reason="because",
            mode=mode,
            evidence=evidence,
            run_key=key or "",
        )
        entries.append(entry)
    return entries


def hourly(entries: list[Entry]) -> list[Entry]:
    return [entry.model_copy(update={"time": START + timedelta(hours=n)}) for n, entry in enumerate(entries)]


def promoted(version: int) -> tuple[tuple[Any, ...], ...]:
    return (("register", version), ("validate", version), ("promote", version))


def stopped(version: int, key: str, target: str = "previous", mode: str = "auto_deploy") -> tuple[Any, ...]:
    asked = {"target": target, "version": version, "kfp_run": "run-1", "mode": mode}
    return ("ct_mode", None, "stopped", {"rollback": asked}, key)


THREE = (*promoted(1), *promoted(2), *promoted(3))


def test_a_time_names_the_champion_of_then() -> None:
    entries = hourly(play(*THREE))
    assert champion_at(entries, START + timedelta(hours=2)) == 1
    assert champion_at(entries, START + timedelta(hours=7, minutes=59)) == 2
    assert champion_at(entries, START + timedelta(days=9)) == 3
    with pytest.raises(RefusedError, match="first came at 2026-01-01T02:00:00Z"):
        champion_at(entries, START + timedelta(hours=1, minutes=59))


def test_a_promotion_that_was_undone_was_never_champion() -> None:
    entries = hourly(play(*THREE, ("undone", 3)))
    assert [reign.version for reign in reigns(entries)] == [1, 2]
    assert champion_at(entries, START + timedelta(days=9)) == 2
    assert previous_champion(entries) == 1


def test_going_back_twice_goes_further_back_and_not_to_the_bad_version_again() -> None:
    entries = play(*THREE)
    assert previous_champion(entries) == 2
    entries = play(*THREE, ("rollback", 2, "train_only"))
    assert previous_champion(entries) == 1


def test_the_first_champion_has_none_before_it() -> None:
    with pytest.raises(RefusedError, match="no champion before"):
        previous_champion(play(*promoted(1)))


def test_a_pin_leads_back_to_champion_and_mode_before_the_first_rollback() -> None:
    first = (stopped(2, "a"), ("rollback", 2, "stopped", None, "a"), ("ct_mode", None, "train_only"))
    second = (stopped(1, "b", mode="train_only"), ("rollback", 1, "stopped", None, "b"))
    assert before_pin(play(*THREE, *first)) == Standing(3, "auto_deploy")
    assert before_pin(play(*THREE, *first, *second)) == Standing(3, "auto_deploy")
    assert before_pin(play(*THREE, *first, *second, ("undone", 1))) == Standing(3, "auto_deploy")
    assert before_pin(play(*THREE, *first, ("unfreeze", 3, "auto_deploy"))) is None
    assert before_pin(play(*THREE, *first, ("unfreeze", 3, "auto_deploy"), ("undone", 3))) == Standing(3, "auto_deploy")


def test_a_pin_by_hand_leads_nowhere_but_a_rollback_below_it_does() -> None:
    frozen = (*THREE, ("ct_mode", None, "train_only"), ("freeze", None))
    assert before_pin(play(*frozen)) is None
    rolled = (stopped(1, "a", mode="train_only"), ("rollback", 1, "stopped", None, "a"))
    assert before_pin(play(*frozen, *rolled)) == Standing(3, "train_only")
    assert before_pin(play(*frozen, *rolled, ("undone", 1))) is None


def test_a_rollback_has_begun_from_the_stop_of_training_to_the_mode_after_it() -> None:
    assert begun(play(*THREE)) is None
    assert begun(play(*THREE, ("ct_mode", None, "stopped"))) is None
    found = begun(play(*THREE, stopped(2, "a")))
    assert found is not None
    assert (found.version, found.target, found.mode, found.pinned) == (2, "previous", "auto_deploy", False)
    pinned = (*THREE, stopped(2, "a"), ("rollback", 2, "stopped", None, "a"))
    found = begun(play(*pinned))
    assert found is not None and found.pinned
    found = begun(play(*pinned, ("undone", 2)))
    assert found is not None and not found.pinned
    assert begun(play(*pinned, ("ct_mode", None, "train_only"))) is None


def test_a_rollback_that_takes_over_from_an_unfinished_one_remembers_the_mode_before_both() -> None:
    entries = play(*THREE, stopped(2, "a"), stopped(1, "b"))
    found = begun(entries)
    assert found is not None
    assert (found.run_key, found.version, found.mode) == ("b", 1, "auto_deploy")
