"""Feast's registry as one object in S3 that concurrent writers do not take from each other.

Feast reads the whole registry, changes its copy, and hands the whole back. Its own S3 store puts it over whatever is
there, and takes any failed read for an empty registry. This one is Feast's extension point ``registry_store_type``: a
state replaces only the one it was made from (``If-Match``), and where another came first, the difference between what
was handed out and what came back is made again on top of that. A merge here, rather than changes held as functions:
only that protects the stock ``feast apply`` and ``feast materialize`` as well, which know no functions.

Beside the object, below ``<key>.states/``, lie the last states it had.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from adin.connections import connection
from adin.errors import ConfigError, ConflictError, DataError, NotFoundError, ServiceError
from adin.features import registry_merge
from adin.features.feast_import import import_feast
from adin.models.doctor import ensure_safe
from adin.models.objects import Bucket
from adin.models.store_files import FileStore
from adin.settings import settings

import_feast()

from feast.infra.registry.registry_store import RegistryStore  # noqa: E402
from feast.protos.feast.core.Registry_pb2 import Registry  # noqa: E402
from google.protobuf.message import DecodeError  # noqa: E402

#: Writers that may come first before a change gives up.
_TRIES = 100
#: States handed out that a change may have been made from; Feast holds one, and for a moment the one before.
_HELD = 4
_REMEDY = "Bring a state back: `adin features registry list`, then `restore`."
_NUMBERED = re.compile(r"(\d{12})-[0-9a-f]{12}")


@dataclass(frozen=True)
class Kept:
    """A state of the registry that can be brought back.

    :param number: grows by one with each change; :param current: whether it is the one in force.
    """

    number: int
    written: datetime
    bytes: int
    current: bool


class BucketRegistryStore(RegistryStore):
    """A registry at ``s3://bucket/key``, in the object store of the connection ``s3``.

    :param registry_config: Feast's; only its ``path`` is read.
    """

    def __init__(self, registry_config: Any, repo_path: Any = None) -> None:
        place = urlsplit(registry_config.path)
        self._where, self._key = registry_config.path, place.path.lstrip("/")
        if place.scheme != "s3" or not place.netloc or not self._key:
            raise ConfigError(f"{self._where} names no object for the registry.", "Use s3://bucket/key.")
        self._bucket = Bucket(connection("s3"), place.netloc)
        self._handed: dict[str, bytes] = {"": b""}
        self._safe = False

    def get_registry_proto(self) -> Any:
        """Return the registry.

        :raises FileNotFoundError: there never was one; Feast then makes an empty one. Nothing else raises it.
        :raises ServiceError: S3 does not answer.
        :raises DataError: the object is broken, or gone although states of it are kept.
        """
        found, _ = self._head()
        if found is None:
            raise FileNotFoundError(self._where)
        self._hand(found)
        return found

    def update_registry_proto(self, registry_proto: Any) -> None:
        """Bring the changes made to a registry that was handed out to what is stored; it then holds both.

        :raises ConflictError: another changed the same object to something else.
        """
        if registry_proto.version_id not in self._handed:
            raise ConflictError(f"{self._where} was read too long ago to be changed.", "Open it again.")
        base = Registry.FromString(self._handed[registry_proto.version_id])
        ours = Registry()
        ours.CopyFrom(registry_proto)
        registry_proto.CopyFrom(self._change(lambda theirs: registry_merge.merged(base, ours, theirs)))
        self._hand(registry_proto)

    def teardown(self) -> None:
        """Delete the registry; its states stay until they are deleted as objects."""
        found, _ = self._head()
        if found is not None:
            self._keep(found)
            self._bucket.remove(self._key)

    def states(self) -> list[Kept]:
        """Return the states that can be brought back, newest first, the first being the one in force."""
        head, _ = self._head(strict=False)
        written = head.last_updated.ToDatetime(UTC) if head else datetime.now(UTC)
        current = [Kept(_number(head.version_id), written, head.ByteSize(), True)] if head else []
        kept = [
            Kept(_number(key), written, size, False)
            for key, (written, size) in self._kept().items()
            if not head or head.version_id not in key
        ]
        return current + sorted(kept, key=lambda state: state.number, reverse=True)

    def restore(self, number: int) -> int:
        """Put an earlier state in force again and return the number it now has; what is in force is kept as well.

        :raises NotFoundError: no such state is kept.
        """
        key = next((key for key in self._kept() if _number(key) == number), None)
        if key is None:
            known = ", ".join(str(state.number) for state in self.states())
            raise NotFoundError(f"No state {number} of {self._where} is kept.", f"Kept: {known}.")
        earlier = _read(self._bucket.get(key), key)
        return _number(self._change(lambda _: earlier, strict=False).version_id)

    def _change(self, change: Callable[[Any], Any], *, strict: bool = True) -> Any:
        """Replace the stored registry by what a function makes of it, made anew as often as another comes first.

        :param strict: not if what is stored is broken or gone.
        """
        tried = ""
        for turn in range(_TRIES):
            head, tag = self._head(strict=strict)
            if head is not None and head.version_id == tried:  # the reply to our own write was lost
                return head
            after = Registry()
            after.CopyFrom(change(head or Registry()))
            if head is not None and _content(after) == _content(head):
                return head
            self._check()
            if head is not None:
                self._keep(head)
            number = max([_number(key) for key in self._kept()] + [_number(head.version_id) if head else 0]) + 1
            after.version_id = tried = f"{number:012d}-{uuid4().hex[:12]}"
            after.last_updated.FromDatetime(datetime.now(UTC))
            content = after.SerializeToString()
            if self._bucket.put_new(self._key, content) if not tag else self._bucket.replace(self._key, content, tag):
                self._forget_oldest()
                return after
            time.sleep(random.uniform(0, 0.05 * min(turn + 1, 10)))  # noqa: S311 - no secret
        raise ServiceError(f"{_TRIES} other changes of {self._where} came first.", "Try again later.")

    def _head(self, *, strict: bool = True) -> tuple[Any, str]:
        """Return the stored registry and its ETag; None and nothing if there is none.

        :param strict: raise where it is broken, or gone while states of it are kept; else that is none too.
        """
        try:
            content, tag = self._bucket.get_tagged(self._key)
        except NotFoundError:
            if strict and self._kept():
                raise DataError(f"{self._where} is gone, although states of it are kept.", _REMEDY) from None
            return None, ""
        try:
            return _read(content, self._where), tag
        except DataError:
            if strict:
                raise
            return None, tag

    def _hand(self, registry: Any) -> None:
        self._handed.pop(registry.version_id, None)
        self._handed[registry.version_id] = registry.SerializeToString()
        while len(self._handed) > _HELD:
            del self._handed[next(iter(self._handed))]

    def _keep(self, registry: Any) -> None:
        self._bucket.put_new(f"{self._states}{registry.version_id}.pb", registry.SerializeToString())

    def _kept(self) -> dict[str, tuple[datetime, int]]:
        return self._bucket.objects(self._states)

    def _forget_oldest(self) -> None:
        for key in sorted(self._kept(), key=_number)[: -settings().feature_registry_states]:
            self._bucket.remove(key)

    def _check(self) -> None:
        """Refuse a store that does not keep to conditions."""
        if not self._safe:
            ensure_safe(FileStore(self._bucket))
            self._safe = True

    @property
    def _states(self) -> str:
        return f"{self._key}.states/"


def _read(content: bytes, where: str) -> Any:
    try:
        found = Registry.FromString(content)
    except DecodeError:
        found = Registry()
    # an object cut to nothing is a valid message, and would be an empty registry
    if not found.version_id:
        raise DataError(f"{where} is no registry of Feast.", _REMEDY)
    return found


def _number(name: str) -> int:
    """Return the number of a state; 0 where Feast's own store wrote it."""
    found = _NUMBERED.search(name)
    return int(found[1]) if found else 0


def _content(registry: Any) -> bytes:
    """Return what a registry holds, without which state it is."""
    told = Registry()
    told.CopyFrom(registry)
    told.ClearField("version_id")
    told.ClearField("last_updated")
    return bytes(told.SerializeToString(deterministic=True))
