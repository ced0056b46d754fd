"""The file edition: log entries and manifests are objects, made once and never overwritten.

``<model>/log/<sequence number>.json`` and ``<model>/manifests/<sha256>.json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from adin.errors import DataError
from adin.models.log import Entry
from adin.models.objects import Bucket

#: Objects read at the same time.
_READERS = 8


class FileStore:
    """Logs and manifests in a bucket.

    :param bucket: where; it may be the bucket of the artefacts.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""
        names = [key.rstrip("/") for key in self._bucket.keys("", folders=True) if key.endswith("/")]
        return sorted(name for name in names if self._bucket.exists(_entry_key(name, 1)))

    def entries(self, model: str, after: int = 0) -> list[Entry]:
        """Return the log entries behind a sequence number, in order."""
        keys = self._bucket.keys(f"{model}/log/", after=_entry_key(model, after))
        with ThreadPoolExecutor(_READERS) as pool:
            found = [Entry.read(content) for content in pool.map(self._bucket.get, keys)]
        for key, entry in zip(keys, found, strict=True):
            if key != _entry_key(model, entry.seq):
                raise DataError(f"{key} holds entry {entry.seq} of {entry.model}: it was moved.", "Restore the log.")
        return found

    def append(self, entry: Entry) -> bool:
        """Write an entry unless its sequence number is taken."""
        return self._bucket.put_new(_entry_key(entry.model, entry.seq), entry.document.encode())

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash."""
        self._bucket.put_new(_manifest_key(model, digest), document)

    def manifests(self, model: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return manifests by hash."""
        wanted = list(digests)
        with ThreadPoolExecutor(_READERS) as pool:
            contents = pool.map(lambda digest: self._bucket.get(_manifest_key(model, digest)), wanted)
            return dict(zip(wanted, contents, strict=True))


def _entry_key(model: str, seq: int) -> str:
    return f"{model}/log/{seq:020d}.json"


def _manifest_key(model: str, digest: str) -> str:
    return f"{model}/manifests/{digest}.json"
