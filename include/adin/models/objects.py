"""Objects in S3: the few calls the registries need, each repeated while the store does not answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import ParseError

import tenacity
import urllib3

from adin.connections import Connection
from adin.errors import AdinError, ConfigError, NotFoundError, ServiceError, UnreachableError
from adin.limits import Limits
from adin.settings import settings

log = logging.getLogger(__name__)
T = TypeVar("T")

_ERRORS: dict[str, type[AdinError]] = {
    "NoSuchKey": NotFoundError,
    "NoSuchBucket": ConfigError,
    "AccessDenied": ConfigError,
    "InvalidAccessKeyId": ConfigError,
    "SignatureDoesNotMatch": ConfigError,
}


def patiently(call: Callable[[], T]) -> T:
    """Return what a call returns, repeating it while it raises a retryable error.

    :raises ServiceError: it still failed after the seconds of ``settings().registry_patience``.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, AdinError) and error.retryable),
        stop=tenacity.stop_after_delay(settings().registry_patience),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
        before_sleep=_tell,
        reraise=True,
    )
    return retrying(call)


def _tell(attempt: tenacity.RetryCallState) -> None:
    log.warning("Try %d failed: %s", attempt.attempt_number, attempt.outcome and attempt.outcome.exception())


class Bucket:
    """One bucket of an S3 store.

    :param conn: connection ``s3``.
    :param name: the bucket; it must exist.
    """

    def __init__(self, conn: Connection, name: str) -> None:
        from minio import Minio

        self.name = name
        self._where = f"bucket {name} at {conn.url}"
        limits = Limits.of(conn)
        timeout = urllib3.Timeout(connect=limits.connect_timeout, read=limits.read_timeout)
        self._client = Minio(
            f"{conn.host}:{conn.port}" if conn.port else conn.host,
            access_key=conn.login,
            secret_key=conn.password,
            secure=conn.extra.get("scheme", "http") == "https",
            region=conn.extra.get("region", "us-east-1"),
            # repeated here, not there: a broken body must be read again as well
            http_client=urllib3.PoolManager(timeout=timeout, maxsize=limits.pool, retries=False),
        )

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one of this key; return whether it was written.

        The condition goes to the store with the request. The client's public ``put_object`` would turn the header
        into user metadata and overwrite. After a lost reply the answer is False although the object is ours.
        """
        return self._put_if(key, content, {"If-None-Match": "*"})

    def replace(self, key: str, content: bytes, tag: str) -> bool:
        """Write an object if the one of this key still has an ETag; return whether it was written.

        After a lost reply the answer is False although the object is ours.
        """
        return self._put_if(key, content, {"If-Match": f'"{tag}"'})

    def _put_if(self, key: str, content: bytes, condition: dict[str, str]) -> bool:
        headers = {**condition, "Content-Type": "application/json"}

        def put() -> bool:
            try:
                self._client._put_object(self.name, key, content, headers=headers)
            except Exception as error:
                # where there is no object to match AWS answers 404, others 412
                refused = _status(error) == 412 or getattr(error, "code", "") == "NoSuchKey"
                if not refused:
                    raise self._translated(error, key) from None
                return False
            return True

        return patiently(put)

    def put(self, key: str, content: bytes) -> None:
        """Write an object, over the one of this key if there is one."""
        self._call(key, lambda: self._client._put_object(self.name, key, content, headers={}))

    def upload(self, key: str, path: Path) -> None:
        """Write a file as an object; large files go up in parts and appear as a whole."""
        self._call(key, lambda: self._client.fput_object(self.name, key, str(path)))

    def get(self, key: str) -> bytes:
        """Return an object's content; :raises NotFoundError: there is none."""
        return self.get_tagged(key)[0]

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and ETag; :raises NotFoundError: there is none."""

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(self.name, key)
            try:
                return bytes(answer.read()), str(answer.headers.get("ETag", "")).strip('"')
            finally:
                answer.close()
                answer.release_conn()

        return self._call(key, read)

    def download(self, key: str, path: Path) -> None:
        """Write an object's content to a file; :raises NotFoundError: there is none."""
        self._call(key, lambda: self._client.fget_object(self.name, key, str(path)))

    def exists(self, key: str) -> bool:
        """Return whether there is an object of this key."""
        try:
            self._call(key, lambda: self._client.stat_object(self.name, key))
        except NotFoundError:
            return False
        return True

    def keys(self, prefix: str, *, after: str = "", folders: bool = False) -> list[str]:
        """Return the keys below a prefix in order.

        :param after: only keys that sort behind this one.
        :param folders: return the names of the next level instead, each with a slash at its end.
        """

        def found() -> list[str]:
            entries = self._client.list_objects(
                self.name, prefix=prefix, recursive=not folders, start_after=after or None
            )
            return [str(entry.object_name) for entry in entries]

        return self._call(prefix, found)

    def objects(self, prefix: str) -> dict[str, tuple[datetime, int]]:
        """Return the time each object below a prefix was written, and its bytes, by key."""

        def found() -> dict[str, tuple[datetime, int]]:
            entries = self._client.list_objects(self.name, prefix=prefix, recursive=True)
            return {str(entry.object_name): (entry.last_modified, int(entry.size or 0)) for entry in entries}

        return self._call(prefix, found)

    def tags(self, prefix: str) -> dict[str, tuple[str, int]]:
        """Return the ETag of each object below a prefix, and its bytes, by key; folders' own markers are none."""

        def found() -> dict[str, tuple[str, int]]:
            entries = self._client.list_objects(self.name, prefix=prefix, recursive=True)
            named = ((str(entry.object_name), entry) for entry in entries)
            return {
                key: (str(entry.etag).strip('"'), int(entry.size or 0)) for key, entry in named if not key.endswith("/")
            }

        return self._call(prefix, found)

    def identity(self) -> str:
        """Return the bucket, its address, and what the server says it is."""
        answer = self._call("", lambda: self._client._execute("HEAD", self.name))
        return f"{self._where}, {answer.headers.get('Server', 'unnamed server')}"

    def remove(self, key: str) -> None:
        """Delete an object; that there is none is no error."""
        self._call(key, lambda: self._client.remove_object(self.name, key))

    def _call(self, key: str, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return call()
            except Exception as error:
                raise self._translated(error, key) from None

        return patiently(translated)

    def _translated(self, error: Exception, key: str) -> Exception:
        from minio.error import MinioException, S3Error

        if isinstance(error, urllib3.exceptions.HTTPError | OSError | ParseError):
            return UnreachableError(f"The {self._where} does not answer: {type(error).__name__}.", "Is S3 up?")
        if not isinstance(error, MinioException):
            return error
        code = error.code if isinstance(error, S3Error) else ""
        if code == "NoSuchKey" or (_status(error) == 404 and code != "NoSuchBucket"):
            return NotFoundError(f"No object {key} in {self._where}.")
        kind = _ERRORS.get(code or "", UnreachableError if (_status(error) or 0) >= 500 else ServiceError)
        remedy = "Check the connection s3 and the name of the bucket." if kind is ConfigError else "Is S3 up?"
        return kind(f"The {self._where} answered {_status(error) or ''} {code} for {key}.", remedy)


def _status(error: Exception) -> int | None:
    """Return the HTTP status behind an error of the client, None where it has none."""
    response = getattr(error, "response", None)
    status = getattr(response, "status", None) or getattr(error, "status_code", None) or getattr(error, "_code", None)
    return status if isinstance(status, int) else None
