"""Files in HDFS, by the NameNode's own protocol; a path may carry its ``hdfs://`` address."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from adin.connections import connection
from adin.errors import NotFoundError, ServiceError


@lru_cache(maxsize=4)
def _client(namenode: str) -> Any:
    from hdfs_native import Client

    return Client(namenode)


def _call(method: str, path: str, *args: Any) -> Any:
    namenode = str(connection("spark").extra["namenode"])
    try:
        return getattr(_client(namenode), method)(urlsplit(path).path, *args)
    except FileNotFoundError:
        raise NotFoundError(f"No {urlsplit(path).path} in HDFS at {namenode}.") from None
    except (OSError, RuntimeError) as error:
        reason = str(error).split("\\n")[0]  # without the server's own stack
        raise ServiceError(f"HDFS at {namenode} refused {method} {path}: {reason}.", "Is it up?") from None


def exists(path: str) -> bool:
    """Tell whether there is such a file or folder."""
    try:
        _call("get_file_info", path)
    except NotFoundError:
        return False
    return True


def list_files(path: str) -> list[str]:
    """Return the paths of all files below a folder; none if there is no such folder."""
    return sorted(status.path for status in _statuses(path, True) if not status.isdir)


def folders(path: str) -> list[str]:
    """Return the names of the folders in a folder; none if there is no such folder."""
    return sorted(status.path.rpartition("/")[2] for status in _statuses(path, False) if status.isdir)


def ages(path: str) -> dict[str, datetime]:
    """Return the folders in a folder by path, with the times something in them was last added or removed."""
    return {
        status.path: datetime.fromtimestamp(status.modification_time / 1000, UTC)
        for status in _statuses(path, False)
        if status.isdir
    }


def versions(path: str) -> dict[str, str]:
    """Return each file below a folder by its path, with its length and the time it was last changed."""
    return {
        status.path: f"{status.length}-{status.modification_time}"
        for status in _statuses(path, True)
        if not status.isdir
    }


def size(path: str) -> int:
    """Return the bytes of all files below a folder, 0 if there is none."""
    return sum(status.length for status in _statuses(path, True) if not status.isdir)


def _statuses(path: str, recursive: bool) -> list[Any]:
    try:
        return list(_call("list_status", path, recursive))
    except (NotFoundError, FileNotFoundError):  # the second while the listing goes on
        return []


def reader(path: str) -> Any:
    """Open a file for reading, as a seekable binary file."""
    return _call("read", path)


def read(path: str) -> bytes:
    """Return a file's content."""
    with reader(path) as file:
        return bytes(file.read())


def write(path: str, content: bytes) -> None:
    """Write a file in one visible step: to a name of its own, then renamed."""
    from hdfs_native import WriteOptions

    part = f"{path}.part"
    with _call("create", part, WriteOptions(overwrite=True)) as file:
        file.write(content)
    _call("rename", part, urlsplit(path).path, True)


def make(path: str) -> None:
    """Make a folder and those above it."""
    _call("mkdirs", path, 0o755, True)


def rename(path: str, target: str) -> None:
    """Move a file or folder to a name that is free."""
    _call("rename", path, urlsplit(target).path, False)


def delete(path: str) -> None:
    """Delete a file or folder with all it holds; no error if it is gone."""
    try:
        _call("delete", path, True)
    except NotFoundError:
        return
