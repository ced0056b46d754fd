"""Where manifests and logs lie. An edition is one class with these calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from adin.models.log import VersionState
from adin.models.record import Record
from adin.models.search import Hit, Query


class Known(NamedTuple):
    """What the log says of a model's versions, up to an entry: the state of each, and the hash of its manifest."""

    seq: int
    states: Mapping[int, VersionState]
    digests: Mapping[int, str]


class Look(Protocol):
    """Reads a model's log as far as it goes."""

    def __call__(self, model: str) -> Known:
        """Return what it says."""


class Store(Protocol):
    """Keeps logs and manifests of models, which are never changed, and small notes, which are.

    A name that begins with a dot is a log of the registry's own; it is no model.
    """

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""

    def documents(self, model: str, after: int = 0, *, anew: bool = False) -> list[str]:
        """Return the documents of a log behind a sequence number, in order; empty for an unknown model.

        :param after: number of an entry that was the last when it was read, or 0.
        :param anew: read what was written, and nothing that was derived from it.
        """

    def append(self, records: Sequence[Record], states: Mapping[int, VersionState]) -> bool:
        """Write all the records, or none of them if the number of the first is taken; return whether they were written.

        False may also mean that they were written by an earlier try whose answer got lost.

        :param records: of one model, without gaps.
        :param states: state of each version which the records touch, after them.
        """

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash; keeping it twice changes nothing."""

    def manifests(self, model: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return manifests by hash.

        :raises NotFoundError: one of them is not there.
        """

    def manifest_times(self) -> dict[tuple[str, str], datetime]:
        """Return when each manifest was kept, by model and hash, also of models without a log."""

    def drop_manifests(self, model: str, digests: Iterable[str]) -> None:
        """Delete manifests which no log entry names."""

    def search(self, query: Query, look: Look) -> list[Hit]:
        """Return a page of the versions that fit, and one more if there is another page."""

    def note(self, key: str) -> tuple[bytes, str] | None:
        """Return a note and the tag of its present content; None if there is none."""

    def swap(self, key: str, content: bytes, tag: str | None) -> bool:
        """Write a note if it still has the tag that was read; return whether it was written.

        False may also mean that it was written by an earlier try whose answer got lost.

        :param tag: None if there was none.
        """

    def recheck(self, model: str, known: Known) -> None:
        """Forget what was derived from a model's log if it differs from it; it is made anew at its next use."""

    def identity(self) -> str:
        """Return which server of which release keeps the things, and where."""

    def clean(self, prefix: str) -> None:
        """Remove logs and notes whose names begin with a prefix, which begins with ``.doctor``."""
