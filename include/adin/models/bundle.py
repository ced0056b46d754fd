"""Models as one file: taken out of a registry and brought into another, of either edition.

The file is a tar archive: ``bundle.json`` with the hash of every other member, then per model ``log.jsonl``,
``manifests/<sha256>.json`` and ``files/<sha256>``.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adin.errors import ConflictError, DataError, NotFoundError
from adin.models.log import Entry, State, manifest_digests, state
from adin.models.manifest import File, ModelManifest
from adin.models.registry import Registry, file_key

FORMAT = 1
_INDEX = "bundle.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Moved:
    """What became of one model.

    :param entries: log entries in the bundle, and :param new: how many of them were not here before.
    """

    model: str
    entries: int
    versions: int
    files: int
    bytes: int
    new: int


def export_bundle(models: Registry, target: Path, names: Iterable[str] = ()) -> list[Moved]:
    """Write models with logs, manifests and files to a bundle; all hashes are checked on the way.

    :param target: file to write; it appears when it is complete, in place of one of that name.
    :param names: default all models.
    :raises NotFoundError: there is no such model.
    :raises DataError: a log, manifest or file is not what was registered.
    """
    chosen = list(dict.fromkeys(names)) or models.models()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        members: dict[str, Path] = {}
        logs = {name: _collect(models, name, Path(folder), members) for name in chosen}
        index = {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(),
            "models": {name: {"entries": len(log), "head": log[-1].hash} for name, (log, _) in logs.items()},
            "members": {name: _sha256(path) for name, path in members.items()},
        }
        part = Path(folder) / "bundle"
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            content = json.dumps(index, indent=1).encode()
            about = tarfile.TarInfo(_INDEX)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
            for name, path in members.items():
                archive.add(path, name, filter=_plain)
        part.replace(target)
    return [_moved(name, log, files, len(log)) for name, (log, files) in logs.items()]


def import_bundle(models: Registry, source: Path, names: Iterable[str] = ()) -> list[Moved]:
    """Bring models from a bundle into a registry; a model is there as a whole or not at all.

    Everything is checked before anything is written. Where a part of a model's log is here already the rest is added;
    the same import again changes nothing.

    :param names: default all models of the bundle.
    :raises DataError: the bundle is damaged, was changed or is incomplete.
    :raises ConflictError: the model here went another way than the one in the bundle.
    :raises NotFoundError: there is no such file, or no such model in it.
    """
    with _opened(source) as archive:
        bundle = _Bundle(archive, source)
        chosen = list(dict.fromkeys(names)) or list(bundle.models)
        read = [bundle.read(name) for name in chosen]
        for each in read:
            _known_part(models, each)
        return [_bring(models, each, bundle) for each in read]


@dataclass(frozen=True)
class _Model:
    """A model of a bundle, checked."""

    name: str
    entries: list[Entry]
    now: State
    manifests: dict[str, bytes]
    files: dict[str, File]


class _Bundle:
    """A bundle whose members all have the hashes its index says."""

    def __init__(self, archive: tarfile.TarFile, source: Path) -> None:
        self._archive = archive
        self._source = source
        try:
            self._members = {member.name: member for member in archive if member.isreg()}
            index = json.loads(self.content(_INDEX))
            if index["format"] != FORMAT:
                raise DataError(f"{source} has format {index['format']}; this release reads {FORMAT}.", "Update Adin.")
            self.models: dict[str, Any] = dict(index["models"])
            hashes: dict[str, str] = dict(index["members"])
        except (ValueError, KeyError, TypeError, tarfile.TarError, OSError) as error:
            raise self._damaged(f"it cannot be read: {error}") from None
        if odd := sorted(set(self._members) ^ {_INDEX, *hashes}):
            raise self._damaged(f"{odd[0]} is missing or not in its index")
        for name, digest in hashes.items():
            if self._hash(name) != digest:
                raise self._damaged(f"{name} is not what was exported")

    def read(self, name: str) -> _Model:
        """Return a model whose log is unbroken and complete, with all it refers to."""
        if name not in self.models:
            raise NotFoundError(f"{self._source} has no model {name!r}.", f"It has: {', '.join(self.models)}.")
        entries = [Entry.read(line) for line in self.content(f"{name}/log.jsonl").splitlines()]
        now = state(name, entries)
        claimed = self.models[name]
        if not entries or (len(entries), now.head) != (claimed["entries"], claimed["head"]):
            raise self._damaged(f"the log of {name} does not end where the index says")
        digests = manifest_digests(entries)
        manifests = {digest: self.content(f"{name}/manifests/{digest}.json") for digest in set(digests.values())}
        files: dict[str, File] = {}
        for number, digest in digests.items():
            manifest = ModelManifest.read(manifests[digest], digest)
            if manifest.model != name:
                raise self._damaged(f"manifest {digest[:12]} belongs to {manifest.model}")
            if number not in now.expired:
                files |= {file.sha256: file for file in manifest.files}
        for file in files.values():
            if self._hash(f"{name}/files/{file.sha256}") != file.sha256:
                raise self._damaged(f"{file.name} of {name} is not the file that was registered")
        return _Model(name, entries, now, manifests, files)

    def content(self, name: str) -> bytes:
        """Return a member."""
        with self.open(name) as member:
            return bytes(member.read())

    def open(self, name: str) -> Any:
        """Open a member to read it."""
        if name not in self._members:
            raise self._damaged(f"{name} is missing")
        return self._archive.extractfile(self._members[name])

    def _hash(self, name: str) -> str:
        with self.open(name) as member:
            return hashlib.file_digest(member, "sha256").hexdigest()

    def _damaged(self, why: str) -> DataError:
        return DataError(f"The bundle {self._source} is refused: {why}.", "Export it again. Nothing was imported.")


def _bring(models: Registry, model: _Model, bundle: _Bundle) -> Moved:
    new = model.entries[_known_part(models, model) :]
    if new:
        _upload(models, model, bundle, list(model.files.values()))
        for digest, document in model.manifests.items():
            models.store.put_manifest(model.name, digest, document)
        if not models.write(new, model.now.versions):
            raise _elsewhere(model.name, "changed while it was imported")
    models.settle()
    expired = models.state(model.name).expired
    whole = models.some(model.name, [number for number in models.digests(model.name) if number not in expired])
    wanted = {file.sha256: file for version in whole for file in version.manifest.files}
    lost = [
        file
        for digest, file in wanted.items()
        if digest in model.files and not models.bucket.exists(file_key(model.name, file))
    ]
    _upload(models, model, bundle, lost)
    return _moved(model.name, model.entries, model.files.values(), len(new))


def _upload(models: Registry, model: _Model, bundle: _Bundle, files: Iterable[File]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            path = Path(folder) / file.sha256
            with bundle.open(f"{model.name}/files/{file.sha256}") as content, path.open("wb") as copy:
                shutil.copyfileobj(content, copy, _CHUNK)
            models.bucket.upload(file_key(model.name, file), path)
            path.unlink()


def _known_part(models: Registry, model: _Model) -> int:
    """Return how many entries of the bundle's log are here already, in the same order."""
    here = models.log(model.name)
    for mine, given in zip(here, model.entries, strict=False):
        if mine.hash != given.hash:
            raise _elsewhere(model.name, f"is another from entry {given.seq} on")
    return min(len(here), len(model.entries))


def _elsewhere(name: str, how: str) -> ConflictError:
    return ConflictError(f"The model {name} here {how}.", "Nothing of it was imported. Import into another registry.")


def _collect(models: Registry, name: str, folder: Path, members: dict[str, Path]) -> tuple[list[Entry], list[File]]:
    """Write a model's parts below a folder and name them as members; return its log and its files."""
    entries = models.log(name)
    if not entries:
        raise NotFoundError(f"No model {name!r}.", "See `adin model list`.")
    now, place = state(name, entries), folder / name
    for part in ("manifests", "files"):
        (place / part).mkdir(parents=True)
    log = "\n".join(entry.document for entry in entries)
    members[f"{name}/log.jsonl"] = _written(place / "log.jsonl", log.encode())
    digests = manifest_digests(entries)
    documents = models.store.manifests(name, set(digests.values()))
    files: dict[str, File] = {}
    for number, digest in digests.items():
        manifest = ModelManifest.read(documents[digest], digest)
        path = _written(place / "manifests" / digest, documents[digest])
        members[f"{name}/manifests/{digest}.json"] = path
        if number not in now.expired:
            files |= {file.sha256: file for file in manifest.files}
    for file in files.values():
        members[f"{name}/files/{file.sha256}"] = models.fetch(name, file, place / "files" / file.sha256)
    return entries, list(files.values())


def _moved(name: str, log: list[Entry], files: Iterable[File], new: int) -> Moved:
    kept = list(files)
    return Moved(name, len(log), len(manifest_digests(log)), len(kept), sum(file.bytes for file in kept), new)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _plain(about: tarfile.TarInfo) -> tarfile.TarInfo:
    about.uid = about.gid = about.mtime = 0
    about.uname = about.gname = ""
    return about


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(source, "r:")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {source}.") from None
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{source} is no bundle: {error}.", "Make one with `adin model export`.") from None
    with archive:
        yield archive
