"""Refused requests are counted, few lines come of them, and none is lost where they cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest
from adin.errors import ServiceError
from adin.features.push.refusals import OTHERS, VIEWS, Refusals, Refused

pytestmark = pytest.mark.flow(11)


class Lines:
    """Takes lines, unless it is away."""

    def __init__(self) -> None:
        self.written: list[Refused] = []
        self.away = False

    def __call__(self, lines: Sequence[Refused]) -> None:
        if self.away:
            raise ServiceError("away")
        self.written += lines


def told(lines: Lines) -> dict[tuple[str, str, str, int], int]:
    return {(each.who, each.token, each.view, each.status): each.times for each in lines.written}


def test_those_alike_are_one_line_and_are_written_once() -> None:
    counted = Refusals(lines := Lines())
    for status in (429, 413, 429):
        counted.add("alice", "t", "v", status)
    counted.flush()
    counted.flush()
    assert told(lines) == {("alice", "t", "v", 429): 2, ("alice", "t", "v", 413): 1}
    counted.add("alice", "t", "v", 429)
    counted.flush()
    assert [each.times for each in lines.written] == [2, 1, 1]
    assert all(one.since <= other.since for one, other in pairwise(lines.written))


def test_one_who_asks_for_ever_other_views_hides_no_refusal_of_others() -> None:
    counted = Refusals(lines := Lines())
    for n in range(1000):
        counted.add("", "", f"v{n}", 401)
    counted.add("alice", "t", "mine", 403)
    counted.flush()
    assert len(lines.written) == VIEWS + 2
    assert told(lines)["", "", OTHERS, 401] == 1000 - VIEWS
    assert told(lines)["alice", "t", "mine", 403] == 1


def test_what_could_not_be_written_is_counted_on_and_stays_bounded() -> None:
    counted = Refusals(lines := Lines())
    lines.away = True
    for n in range(100):
        counted.add("", "", f"v{n}", 401)
        with pytest.raises(ServiceError):
            counted.flush()
    lines.away = False
    counted.flush()
    assert len(lines.written) == VIEWS + 1
    assert sum(told(lines).values()) == 100
    assert told(lines)["", "", "v0", 401] == 1


def test_none_is_lost_between_counting_and_writing() -> None:
    counted = Refusals(lines := Lines())

    def ask() -> None:
        for _ in range(2000):
            counted.add("alice", "t", "v", 429)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        counted.flush()
    counted.flush()
    assert sum(each.times for each in lines.written) == 8000


def test_a_name_that_no_terminal_or_database_could_take_is_made_plain_and_short() -> None:
    counted = Refusals(lines := Lines())
    counted.add("", "", "a\n\0\x1b\ud800é" + "x" * 200, 401)
    counted.flush()
    assert lines.written[0].view == "a????é" + "x" * 94
