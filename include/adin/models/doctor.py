"""Whether a registry can be trusted: a store that lets one writer win, and contents that are what was written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from adin.errors import AdinError, ConfigError, DataError, ServiceError
from adin.models.log import Entry, State, following
from adin.models.store import Store

if TYPE_CHECKING:
    from adin.models.registry import Registry

_WRITERS = 8
#: Rounds of the races when asked for, and before the first write into a store nobody has looked at: one shows a store
#: that does not know conditions; one that knows them but not under load may need more.
_ROUNDS, _FIRST_ROUNDS = 8, 1
_VERDICT = "doctor/verdict"
#: A verdict is believed for this long, and as long as the server says it is the same.
_BELIEVED = timedelta(days=30)


@dataclass
class Finding:
    """What was looked at, and everything that is wrong with it."""

    what: str
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems


def examine(models: Registry, *, files: bool = True) -> list[Finding]:
    """Race the store, then read every log, manifest and artefact and check them against their hashes.

    What is only derived from the logs (search tables, copies) and differs from them is made anew at its next use.

    :param files: also artefacts, each of which is downloaded.
    """
    from adin.models.access import Access

    found = [Finding(f"store: {models.store.identity()}", judge(models.store, rounds=_ROUNDS)), Finding("access")]
    try:
        Access(models.store).log()
    except DataError as error:
        found[1].problems.append(str(error))
    return found + [Finding(f"model {name}", _wrong(models, name, files)) for name in models.models()]


def judge(store: Store, *, rounds: int = _FIRST_ROUNDS) -> list[str]:
    """Race the store and remember the verdict in it; return the problems."""
    problems = race(store, rounds=rounds)
    verdict = {"server": store.identity(), "time": datetime.now(UTC).isoformat(), "problems": problems}
    old = store.note(_VERDICT)
    store.swap(_VERDICT, json.dumps(verdict).encode(), old[1] if old else None)
    return problems


def ensure_safe(store: Store) -> None:
    """Refuse a store that lets two writers win; one nobody has looked at, or not for long, is raced first.

    :raises ConfigError: two writers of the same thing were both told that they had written it.
    """
    problems = _believed(store)
    if problems is None:
        problems = judge(store)
    if problems:
        raise ConfigError(
            f"Nothing is written to this store, for changes would get lost: {problems[0]}",
            "Use a store that honours If-None-Match and If-Match, then run `adin model doctor`.",
        )


def _believed(store: Store) -> list[str] | None:
    noted = store.note(_VERDICT)
    if noted is None:
        return None
    verdict = json.loads(noted[0])
    young = datetime.now(UTC) - datetime.fromisoformat(verdict["time"]) < _BELIEVED
    return list(verdict["problems"]) if young and verdict["server"] == store.identity() else None


def race(store: Store, *, writers: int = _WRITERS, rounds: int = _ROUNDS) -> list[str]:
    """Let writers meet, each on a connection of its own; return what was wrong, nothing if one always won."""
    problems: dict[str, None] = {}
    with _scratch(store) as name, ThreadPoolExecutor(writers) as pool:
        barrier = threading.Barrier(writers)

        def meet(write: Callable[[int], bool]) -> list[int]:
            def one(n: int) -> bool:
                barrier.wait(60)
                return write(n)

            return [n for n, won in enumerate(pool.map(one, range(writers))) if won]

        for turn in range(rounds):
            for problem in (*_appends(store, f"{name}-{turn}", meet), *_swaps(store, f"{name}/{turn}", meet)):
                problems[problem] = None
        if store.swap(f"{name}/none", b"{}", "0" * 32) or store.note(f"{name}/none"):
            problems["A change of a thing that is not there was let through."] = None
    return list(problems)


Meet = Callable[[Callable[[int], bool]], list[int]]


def _appends(store: Store, name: str, meet: Meet) -> Iterator[str]:
    """Write the first entry of a log from all sides."""
    entries = [_entry(name, n) for n in range(_WRITERS)]
    winners = meet(lambda n: store.append([entries[n]], {}))
    kept = [Entry.read(document).id for document in store.documents(name)]
    yield from _judged("create if absent", winners, kept, [entry.id for entry in entries])


def _swaps(store: Store, key: str, meet: Meet) -> Iterator[str]:
    """Make a note from all sides, then change it from all sides."""
    for what in ("create if absent", "compare and swap"):
        old = store.note(key)
        contents = [json.dumps({what: n}).encode() for n in range(_WRITERS)]
        tag = old[1] if old else None
        winners = meet(lambda n, tag=tag, contents=contents: store.swap(key, contents[n], tag))  # type: ignore[misc]
        now = store.note(key)
        yield from _judged(what, winners, [str(now and now[0])], [str(content) for content in contents])
        if old and store.swap(key, b"{}", old[1]):
            yield "A writer who had read what was no longer there was let through."


def _judged(what: str, winners: list[int], kept: list[str], written: list[str]) -> Iterator[str]:
    if len(winners) > 1:
        yield f"Of {_WRITERS} writers at once {len(winners)} were told that they had won ({what})."
    elif len(kept) != 1 or (winners and kept[0] != written[winners[0]]):
        yield f"What is stored is not what the one who won had written ({what})."


def _entry(name: str, n: int) -> Entry:
    return following(State(name), "ct_mode", version=None, actor="doctor", reason=f"race {n}", mode="stopped")


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    name = f".doctor-{uuid4().hex[:12]}"
    try:
        yield name
    finally:
        store.clean(name)


def _wrong(models: Registry, name: str, files: bool) -> list[str]:
    """Return everything that is wrong with a model."""
    try:
        models.verify(name)
    except ServiceError:
        raise
    except AdinError as error:
        return [str(error)]
    if not files:
        return []
    expired = models.state(name).expired
    kept = [version for version in models.versions(name) if version.number not in expired]
    stored = {file.sha256: file for version in kept for file in version.manifest.files}
    with TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:

        def check(digest: str) -> str:
            try:
                models.fetch(name, stored[digest], Path(folder) / digest).unlink()
            except ServiceError:
                raise
            except AdinError as error:
                return str(error)
            return ""

        return [problem for problem in pool.map(check, stored) if problem]
