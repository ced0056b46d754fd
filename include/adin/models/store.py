"""Where manifests and logs lie. An edition is one class with these five calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from adin.models.log import Entry


class Store(Protocol):
    """Keeps logs and manifests of models; nothing in it is ever changed or deleted."""

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""

    def entries(self, model: str, after: int = 0) -> list[Entry]:
        """Return the log entries behind a sequence number, in order; empty for an unknown model."""

    def append(self, entry: Entry) -> bool:
        """Write an entry unless its sequence number is taken; return whether it was written.

        False may also mean that it was written by an earlier try whose answer got lost.
        """

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash; keeping it twice changes nothing."""

    def manifests(self, model: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return manifests by hash.

        :raises NotFoundError: one of them is not there.
        """
