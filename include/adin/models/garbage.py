"""What of the registry nothing refers to: artefacts, manifests, and versions that were never champion."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from adin.errors import ConfigError, ConflictError, NotFoundError, RefusedError, ServiceError
from adin.models.log import State
from adin.models.registry import SWEEP, Registry
from adin.retention.phases import Item
from adin.settings import settings

log = logging.getLogger(__name__)

#: A registration may have written a thing and not yet its log entry; no registration takes this long.
_YOUNG = timedelta(days=1)
#: A sweep whose process died is over after this.
_LONGEST_SWEEP = timedelta(minutes=10)
_ACTOR = "retention"


class Files:
    """Artefacts that belong to no version, or only to versions which gave up their files."""

    name = "model files"

    def __init__(self, models: Registry) -> None:
        self._models = models
        self._of_manifest: dict[str, set[str]] = {}

    def garbage(self) -> list[Item]:
        """Return artefacts older than a day that no version has."""
        return self._of(self._models.bucket.objects(""))

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete artefacts; registrations meanwhile wait, and put back what they miss."""
        with _sweep(self._models):
            still = {item.name for name in names for item in self._of(self._models.bucket.objects(name))}
            for name in still:
                self._models.bucket.remove(name)
        return [name for name in names if name in still]

    def _of(self, objects: Mapping[str, tuple[datetime, int]]) -> list[Item]:
        oldest, wanted, found = _clock() - _YOUNG, dict[str, set[str]](), []
        known = {*self._models.models(), *(model for model, _ in self._models.store.manifest_times())}
        for key, (written, size) in objects.items():
            model, _, digest = key.partition("/files/")
            if not digest or written > oldest:
                continue
            if model not in known:
                continue  # of another registry that keeps its files in the same bucket
            if model not in wanted:
                wanted[model] = self._wanted(model)
            if digest not in wanted[model]:
                found.append(Item(key, f"no version of {model} has it; written {written:%Y-%m-%d}", size))
        return found

    def _wanted(self, model: str) -> set[str]:
        """Return the hashes of the files that the versions of a model have."""
        digests, expired = self._models.digests(model), self._models.state(model).expired
        kept = {number: digest for number, digest in digests.items() if number not in expired}
        new = [number for number, digest in kept.items() if digest not in self._of_manifest]
        for version in self._models.some(model, new):
            self._of_manifest[version.digest] = {file.sha256 for file in version.manifest.files}
        return set().union(*(self._of_manifest[digest] for digest in kept.values()))


class Manifests:
    """Manifests that no log entry names: their registration never ended."""

    name = "model manifests"

    def __init__(self, models: Registry) -> None:
        self._models = models

    def garbage(self) -> list[Item]:
        """Return manifests older than a day that no log names."""
        oldest = _clock() - _YOUNG
        old = [place for place, stored in self._models.store.manifest_times().items() if stored <= oldest]
        return [Item(f"{model}/{digest}", "no entry of the log names it") for model, digest in self._unnamed(old)]

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete manifests; registrations meanwhile wait, and put back what they miss."""
        with _sweep(self._models):
            still = self._unnamed([(name.partition("/")[0], name.partition("/")[2]) for name in names])
            for model, digest in still:
                self._models.store.drop_manifests(model, [digest])
        return [f"{model}/{digest}" for model, digest in still]

    def _unnamed(self, places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        named = {model: set(self._models.digests(model).values()) for model in {model for model, _ in places}}
        return [(model, digest) for model, digest in places if digest not in named[model]]


class Versions:
    """Versions which nobody goes back to: never champion, without an alias, not answering anywhere, and left alone.

    They stay in log and search and keep their manifests; deleting one is the log entry ``expire``, after which its
    files belong to nothing.
    """

    name = "model versions"

    def __init__(self, models: Registry) -> None:
        self._models = models

    def garbage(self) -> list[Item]:
        """Return versions about which nothing was written for ``settings().retention_version_days``."""
        return [item for model in self._models.models() for item in self._of(model)]

    def delete(self, names: Sequence[str]) -> list[str]:
        """Write that versions give up their files."""
        gone = []
        for name in names:
            model, _, number = name.rpartition("/")
            if name not in {item.name for item in self._of(model)}:
                continue
            seq, reason = self._models.state(model).seq, "no longer needed"
            # somebody came first: the next run looks again
            with suppress(ConflictError, RefusedError):
                self._models.append(model, "expire", version=int(number), actor=_ACTOR, reason=reason, expect_seq=seq)
                gone.append(name)
        return gone

    def _of(self, model: str) -> list[Item]:
        now, entries = self._models.state(model), self._models.log(model)
        try:
            answering = _answering(model)
        except ServiceError as error:
            log.warning("no version of %s is given up, for it is not known which one answers: %s", model, error)
            return []
        last = {entry.version: entry.time for entry in entries if entry.version}
        oldest = _clock() - timedelta(days=settings().retention_version_days)
        idle = [number for number in _idle(now) if number != answering and last[number] < oldest]
        sizes = {v.number: sum(file.bytes for file in v.manifest.files) for v in self._models.some(model, idle)}
        return [
            Item(f"{model}/{n}", f"{now.versions[n]}, never champion, untouched since {last[n]:%Y-%m-%d}", sizes[n])
            for n in idle
        ]


def _idle(now: State) -> Iterator[int]:
    kept = {*now.crowned, *now.expired, *now.aliases.values()}
    return (number for number in now.versions if number not in kept)


def _answering(model: str) -> int | None:
    """Return the version the model server answers with; None if none does, or there is no such server."""
    from adin.serving.client import ServingClient

    try:
        return int(ServingClient().status(model)["version"])
    except (NotFoundError, ConfigError):
        return None


@contextmanager
def _sweep(models: Registry) -> Iterator[None]:
    """Tell registrations that things are being deleted.

    A registration looks for this after its log entry is written. So either the sweep, which reads the log after this
    was written, sees the entry, or the registration sees the sweep and puts back what is missing when it is over.
    """
    mine = uuid4().hex
    old = models.store.note(SWEEP)
    if old and json.loads(old[0]).get("until", "") > _clock().isoformat():
        raise ConflictError("Another collection of model files is under way.", "Run it again later.")
    until = (_clock() + _LONGEST_SWEEP).isoformat()
    if not models.store.swap(SWEEP, json.dumps({"by": mine, "until": until}).encode(), old[1] if old else None):
        raise ConflictError("Another collection of model files is under way.", "Run it again later.")
    try:
        yield
    finally:
        now = models.store.note(SWEEP)
        if now and json.loads(now[0]).get("by") == mine:
            models.store.swap(SWEEP, json.dumps({"by": mine}).encode(), now[1])


def _clock() -> datetime:
    return datetime.now(UTC)
