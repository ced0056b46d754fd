"""The file edition: log entries and manifests are objects, made once and never overwritten.

``<model>/log/<number of its first entry>.json``, an entry a line, and ``<model>/manifests/<sha256>.json``. Below
``.cache/`` lie copies that save reading many small objects; they may be deleted at any time.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from adin.errors import AdinError, NotFoundError
from adin.models.log import VersionState
from adin.models.manifest import NAME, ModelManifest
from adin.models.objects import Bucket
from adin.models.record import Record
from adin.models.search import Facts, Hit, Query, named, scan
from adin.models.store import Known, Look

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Objects read at the same time.
_READERS = 8
#: Small objects read one by one before they are copied together.
_LOOSE = 128


class FileStore:
    """Logs and manifests in a bucket.

    :param bucket: where; it may be the bucket of the artefacts.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._facts: dict[str, dict[str, Facts]] = {}

    def models(self) -> list[str]:
        """Return the names of all models with at least one log entry, sorted."""
        folders = [key.rstrip("/") for key in self._bucket.keys("", folders=True) if key.endswith("/")]
        names = [name for name in folders if re.fullmatch(NAME, name)]
        there = _at_once(lambda name: self._bucket.exists(_entry_key(name, 1)), names)
        return sorted(name for name, found in zip(names, there, strict=True) if found)

    def documents(self, model: str, after: int = 0, *, anew: bool = False) -> list[str]:
        """Return the documents of a log behind a sequence number, in order."""
        copied, last = ([], "") if after or anew else self._copied(model)
        keys = self._bucket.keys(f"{model}/log/", after=last or _entry_key(model, after))
        found = [line for content in _at_once(self._bucket.get, keys) for line in content.decode().splitlines()]
        if not after and not anew and len(keys) > _LOOSE:
            self._copy(_log_copy(model), {"last": keys[-1], "documents": copied + found})
        return copied + found

    def append(self, records: Sequence[Record], states: Mapping[int, VersionState]) -> bool:
        """Write all the records as one object unless the number of the first is taken."""
        content = "\n".join(record.document for record in records)
        return self._bucket.put_new(_entry_key(records[0].model, records[0].seq), content.encode())

    def put_manifest(self, model: str, digest: str, document: bytes) -> None:
        """Keep a manifest under its hash."""
        self._bucket.put_new(_manifest_key(model, digest), document)

    def manifests(self, model: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return manifests by hash."""
        wanted = list(digests)
        contents = _at_once(lambda digest: self._bucket.get(_manifest_key(model, digest)), wanted)
        return dict(zip(wanted, contents, strict=True))

    def manifest_times(self) -> dict[tuple[str, str], datetime]:
        """Return when each manifest was kept."""
        found = {}
        for key, (time, _) in self._bucket.objects("").items():
            model, _, name = key.partition("/manifests/")
            if name:
                found[model, name.removesuffix(".json")] = time
        return found

    def drop_manifests(self, model: str, digests: Iterable[str]) -> None:
        """Delete manifests which no log entry names."""
        _at_once(lambda digest: self._bucket.remove(_manifest_key(model, digest)), digests)

    def search(self, query: Query, look: Look) -> list[Hit]:
        """Return a page of the versions that fit, and one more if there is another page."""
        models = named(query, self.models() if "*" in query.model else [query.model])
        looked = zip(models, _at_once(look, models), strict=True)
        return scan(
            query,
            (
                (model, number, known.states[number], facts[digest])
                for model, known in looked
                for facts in (self._facts_of(model, known),)
                for number, digest in known.digests.items()
            ),
        )

    def note(self, key: str) -> tuple[bytes, str] | None:
        """Return a note and its ETag."""
        try:
            return self._bucket.get_tagged(_note_key(key))
        except NotFoundError:
            return None

    def swap(self, key: str, content: bytes, tag: str | None) -> bool:
        """Write a note if it still has the ETag that was read."""
        if tag is None:
            return self._bucket.put_new(_note_key(key), content)
        return self._bucket.replace(_note_key(key), content, tag)

    def recheck(self, model: str, known: Known) -> None:
        """Delete the copies of a model; they are made anew when many small objects are read."""
        self._facts.pop(model, None)
        for key in (_log_copy(model), _facts_copy(model)):
            self._bucket.remove(key)

    def identity(self) -> str:
        """Return which server keeps the bucket."""
        return self._bucket.identity()

    def clean(self, prefix: str) -> None:
        """Remove logs and notes whose names begin with a prefix, which begins with ``.doctor``."""
        assert prefix.startswith(".doctor")
        _at_once(self._bucket.remove, self._bucket.keys(prefix) + self._bucket.keys(f".notes/{prefix}"))

    def _facts_of(self, model: str, known: Known) -> dict[str, Facts]:
        """Return what can be searched of a model's versions, by manifest; what was read once is kept."""
        facts = self._facts.setdefault(model, {})
        if any(digest not in facts for digest in known.digests.values()):
            facts |= {digest: Facts.read(each) for digest, each in self._read_copy(_facts_copy(model)).items()}
        missing = [digest for digest in known.digests.values() if digest not in facts]
        for digest, document in self.manifests(model, missing).items():
            facts[digest] = Facts.of(ModelManifest.read(document, digest))
        if len(missing) > _LOOSE:
            self._copy(_facts_copy(model), {digest: each.document() for digest, each in facts.items()})
        return facts

    def _copied(self, model: str) -> tuple[list[str], str]:
        """Return the part of a log that was copied together, and the key of the last object in it."""
        copy = self._read_copy(_log_copy(model))
        # a bucket that was set back to an earlier day has no such object any more
        if not copy or not self._bucket.exists(copy["last"]):
            return [], ""
        return copy["documents"], copy["last"]

    def _read_copy(self, key: str) -> dict[str, Any]:
        try:
            return dict(json.loads(gzip.decompress(self._bucket.get(key))))
        except NotFoundError:
            return {}
        except (OSError, EOFError, ValueError) as error:
            log.warning("%s is ignored: %s", key, error)
            return {}

    def _copy(self, key: str, content: Mapping[str, Any]) -> None:
        with suppress(AdinError):  # readers may lack the right to write
            self._bucket.put(key, gzip.compress(json.dumps(content).encode(), 3))


def _at_once(call: Callable[[str], T], items: Iterable[str]) -> list[T]:
    items = list(items)
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(call, items))


def _entry_key(model: str, seq: int) -> str:
    return f"{model}/log/{seq:020d}.json"


def _manifest_key(model: str, digest: str) -> str:
    return f"{model}/manifests/{digest}.json"


def _note_key(key: str) -> str:
    return f".notes/{key}.json"


def _log_copy(model: str) -> str:
    return f".cache/{model}/log.json.gz"


def _facts_copy(model: str) -> str:
    return f".cache/{model}/facts.json.gz"
