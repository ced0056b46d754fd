"""Unstructured objects of a dataset version: imported into its commit without a copy, listed in its manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adin.connections import connection
from adin.datasets.lake import Lake
from adin.errors import DataError
from adin.models.objects import Bucket
from adin.problem import Problem

#: Objects lie below this in a version.
FOLDER = "objects/"
_MD5 = re.compile(r"[0-9a-f]{32}")


def listed(spec: Problem) -> list[dict[str, Any]]:
    """Return every object a version built now would carry: path in the version, address, ETag and size.

    :raises DataError: there is nothing below a prefix.
    """
    found = []
    for each in spec.objects:
        place = urlsplit(each.source)
        prefix = place.path.lstrip("/")
        below = Bucket(connection("s3"), place.netloc).tags(prefix)
        if not below:
            raise DataError(
                f"There are no objects below {each.source}.", f"Correct objects.{each.name} of {spec.name}."
            )
        found += [
            {
                "path": f"{FOLDER}{each.name}/{key.removeprefix(prefix)}",
                "source": f"s3://{place.netloc}/{key}",
                "etag": etag,
                "bytes": size,
            }
            for key, (etag, size) in sorted(below.items())
        ]
    return found


def bring(spec: Problem, wanted: Sequence[Mapping[str, Any]], branch: str, lake: Lake) -> None:
    """Make a clean branch hold just the wanted objects.

    :raises DataError: what came is not what was listed: the source was changed meanwhile.
    """
    for each in spec.objects:
        lake.import_objects(branch, each.source, f"{FOLDER}{each.name}/")
    came = {entry.path: entry.size_bytes for entry in lake.objects(branch, FOLDER)}
    expected = {entry["path"]: entry["bytes"] for entry in wanted}
    if extra := sorted(set(came) - set(expected)):  # of the version before
        lake.delete(branch, extra)
    if lost := sorted(path for path, size in expected.items() if came.get(path) != size):
        raise DataError(f"{len(lost)} objects changed while they were imported: {lost[0]}.", "Run it again.")


def fetch(manifest: Mapping[str, Any], commit: str, target: Path, lake: Lake) -> None:
    """Copy a version's objects below a folder, each verified.

    :raises DataError: an object is not the one that was imported.
    """

    def one(entry: Mapping[str, Any]) -> None:
        content = lake.read(commit, entry["path"])
        same = len(content) == entry["bytes"]
        if _MD5.fullmatch(entry["etag"]):  # that of an object which went up in parts is no hash of its content
            same = same and hashlib.md5(content, usedforsecurity=False).hexdigest() == entry["etag"]
        if not same:
            raise DataError(f"{entry['source']} was changed after dataset {commit[:12]} was built.", "Restore it.")
        path = target / entry["path"]
        if not path.resolve().is_relative_to((target / FOLDER).resolve()):
            raise DataError(f"{entry['path']} leads out of the dataset.", "Rename the object.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, manifest.get("objects", [])))
