"""The log of a model as a pure function: what is legal, what it adds up to, and what breaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adin.errors import DataError, RefusedError
from adin.models.log import Entry, State, following, state
from adin.models.manifest import ModelManifest, jsonable

pytestmark = pytest.mark.flow(14, 16)

M = "flights_delay"


def play(*steps: tuple[Any, ...]) -> tuple[State, list[Entry]]:
    """Write events, each ``(event, version)`` or ``(event, version, mode)``."""
    entries: list[Entry] = []
    for event, version, *mode in steps:
        now = state(M, entries)
        entries.append(
            following(now, event, version=version, actor="test", reason="because", mode=mode[0] if mode else None)
        )
    return state(M, [Entry.read(entry.document) for entry in entries]), entries


FIRST = (("register", 1), ("validate", 1), ("promote", 1))
SECOND = (("register", 2), ("validate", 2), ("promote", 2))


def test_a_promotion_retires_the_champion_before() -> None:
    now, _ = play(*FIRST, *SECOND)
    assert now.aliases == {"champion": 2, "previous": 1}
    assert now.versions == {1: "retired", 2: "champion"}


def test_a_challenger_that_is_promoted_is_challenger_no_more() -> None:
    now, _ = play(*FIRST, ("register", 2), ("validate", 2), ("challenge", 2), ("promote", 2))
    assert (now.champion, now.challenger) == (2, None)


def test_there_is_one_challenger_at_a_time() -> None:
    now, _ = play(("register", 1), ("register", 2), *((e, v) for v in (1, 2) for e in ("validate", "challenge")))
    assert (now.challenger, now.versions) == (2, {1: "validated", 2: "challenger"})


@pytest.mark.parametrize(
    ("before", "event", "version"),
    [
        ((("register", 1),), "promote", 1),
        ((("register", 1),), "challenge", 1),
        ((("register", 1),), "register", 3),
        ((("register", 1), ("reject", 1)), "validate", 1),
        ((("register", 1), ("reject", 1)), "rollback", 1),
        (FIRST, "promote", 1),
        (FIRST, "retire", 1),
        (FIRST, "validate", 2),
        ((*FIRST, *SECOND), "promote", 1),
        ((*FIRST, *SECOND), "served", 1),
        ((*FIRST, *SECOND), "undone", 1),
        ((*FIRST, *SECOND), "freeze", 1),
        ((*FIRST, ("undone", 1)), "undone", 1),
        ((*FIRST, ("freeze", None), ("register", 2), ("validate", 2)), "promote", 2),
    ],
)
def test_what_is_not_allowed_is_refused(before: Any, event: Any, version: int) -> None:
    with pytest.raises(RefusedError):
        play(*before, (event, version))


def test_an_undone_promotion_leaves_everything_as_before() -> None:
    before, _ = play(*FIRST, *SECOND, ("register", 3), ("validate", 3))
    after, _ = play(*FIRST, *SECOND, ("register", 3), ("validate", 3), ("promote", 3), ("undone", 3))
    assert (after.aliases, after.versions, after.mode) == (before.aliases, before.versions, before.mode)


def test_an_undone_rollback_lifts_the_pin_it_set() -> None:
    now, _ = play(*FIRST, *SECOND, ("rollback", 1, "train_only"), ("undone", 1))
    assert (now.champion, now.frozen, now.versions[1]) == (2, False, "retired")


def test_a_rollback_pins_its_target_and_unfreeze_can_bring_champion_and_mode_back() -> None:
    rolled = (*FIRST, *SECOND, ("rollback", 1, "train_only"))
    now, _ = play(*rolled)
    assert (now.champion, now.frozen, now.mode) == (1, True, "train_only")
    now, _ = play(*rolled, ("unfreeze", 2, "auto_deploy"))
    assert (now.champion, now.frozen, now.mode) == (2, False, "auto_deploy")
    now, _ = play(*rolled, ("unfreeze", None))
    assert (now.champion, now.frozen, now.mode) == (1, False, "train_only")


def test_a_number_is_never_used_again() -> None:
    now, _ = play(("register", 1), ("register", 2), ("reject", 2))
    assert now.next_version == 3


def test_only_events_meant_for_it_change_the_mode() -> None:
    now, _ = play(("register", 1), ("ct_mode", None, "stopped"), ("validate", 1))
    assert now.mode == "stopped"
    _, entries = play(("register", 1))
    with pytest.raises(DataError, match="another outcome"):
        forged = entries[0].model_copy(update={"mode": "stopped"})
        state(M, [forged])


@pytest.mark.parametrize("field", ["actor", "reason", "time", "version", "aliases", "evidence", "previous"])
def test_a_change_of_any_field_breaks_the_hash(field: str) -> None:
    _, entries = play(*FIRST)
    facts = json.loads(entries[2].document)
    facts[field] = {"champion": 7} if field in ("aliases", "evidence") else "2013-01-01T00:00:00Z"
    with pytest.raises(DataError, match="tampered"):
        Entry.read(json.dumps(facts))


def test_swapped_entries_break_the_chain() -> None:
    _, entries = play(("register", 1), ("register", 2))
    with pytest.raises(DataError, match="broken at entry 2"):
        state(M, entries[::-1])


def test_an_entry_names_who_and_why_or_is_refused() -> None:
    for missing in ("actor", "reason"):
        words = {"actor": "me", "reason": "because", missing: ""}
        with pytest.raises(DataError, match=missing):
            following(State(M), "freeze", version=None, **words)


def test_numbers_that_are_none_are_stored_as_null() -> None:
    import numpy as np

    facts = {"auc": float("nan"), "loss": np.float64(0.5), "days": np.array([1, 2]), 3: (1, 2)}
    assert jsonable(facts) == {"auc": None, "loss": 0.5, "days": [1, 2], "3": [1, 2]}


def manifest(**changes: Any) -> ModelManifest:
    facts = {
        "model": M,
        "dataset": "7a78d0e6",
        "window": "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z",
        "sources": {},
        "service": "s",
        "registry": "r",
        "features": ["b", "a"],
        "signature": {"inputs": {"a": "int64", "b": "float64"}, "output": {"dtype": "float64"}},
        "parameters": {},
        "metrics": {"test": {"all": {"auc": 0.7}}},
        "code_version": "c",
        "kfp_run": "k",
        "owner": "o",
        "created": "2013-12-01T00:00:00Z",
        "run_key": "r-1",
        "files": [{"name": "model.joblib", "sha256": "0" * 64, "bytes": 1}],
    }
    return ModelManifest.of(facts | changes)


def test_a_manifest_reads_back_as_it_was_and_keeps_the_order_of_its_features() -> None:
    made = manifest()
    assert made.features == ("b", "a")
    assert ModelManifest.read(made.document, made.digest) == made
    with pytest.raises(DataError, match="changed after"):
        ModelManifest.read(made.document.replace(b"7a78", b"7a79"), made.digest)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"features": ["a"]}, "same columns"),
        ({"features": ["a", "a", "b"]}, "twice"),
        ({"files": []}, "files"),
        ({"files": [{"name": "../model", "sha256": "0" * 64, "bytes": 1}]}, "files.0.name"),
        ({"files": [{"name": "/model", "sha256": "0" * 64, "bytes": 1}]}, "files.0.name"),
        ({"created": "2013-12-01T00:00:00"}, "time zone"),
        ({"model": "Flights Delay"}, "model"),
        ({"window": "2013-01-01"}, "window"),
        ({"metrics": {}}, "metrics"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_with_the_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=place):
        manifest(**changes)
