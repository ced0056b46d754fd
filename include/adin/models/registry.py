"""AMVersion: register, look up, promote and download model versions."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from adin.connections import Connection, connection
from adin.errors import ConfigError, ConflictError, DataError, NotFoundError, RefusedError
from adin.models.doctor import ensure_safe
from adin.models.log import Entry, Event, Mode, State, VersionState, following, manifest_digests, state
from adin.models.manifest import NAME, File, ModelManifest
from adin.models.objects import Bucket
from adin.models.search import Query
from adin.models.store import Known, Store
from adin.settings import settings

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
#: Writers that may come first before an append gives up.
_TRIES = 200
#: Note that says until when things are being deleted, see :mod:`adin.models.garbage`.
SWEEP = "sweep"
#: Events which take an earlier entry back: after one of them a repeated run has to write anew.
_VOIDED_BY: dict[str, set[str]] = {
    "promote": {"undone"},
    "rollback": {"undone", "unfreeze"},
    "served": {"undone"},
    "undone": {"promote", "rollback"},
    "freeze": {"unfreeze"},
    "unfreeze": {"freeze", "rollback"},
    "ct_mode": {"ct_mode", "rollback", "unfreeze"},
}


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model.

    :param number: 1, 2, ..; never used again.
    :param digest: SHA-256 of the manifest, as the log has it.
    """

    model: str
    number: int
    digest: str
    manifest: ModelManifest


@dataclass(frozen=True)
class Page:
    """A part of what a search found.

    :param next: the next page's :attr:`Query.after`; empty on the last one.
    """

    versions: list[ModelVersion]
    next: str = ""


class _View(NamedTuple):
    """A log as far as it was read, and what was made of it."""

    entries: tuple[Entry, ...]
    state: State
    digests: dict[int, str]
    runs: dict[str, int]


def registry(conn: Connection | None = None, *, s3: Connection | None = None) -> Registry:
    """Return the registry of a connection.

    :param conn: where logs and manifests lie: ``extra`` names the edition, ``database`` (PostgreSQL) or ``files``
        (S3, in the bucket its schema names). Default the connection ``amversion``.
    :param s3: where artefacts, and the file edition, lie. Default the connection ``s3``.
    :raises ConfigError: a connection is missing, or the edition unknown.
    """
    conn = conn or connection("amversion")
    s3 = s3 or connection("s3")
    bucket = settings().model_bucket
    edition = conn.extra.get("edition", "database")
    if edition == "files":
        from adin.models.store_files import FileStore

        where = Bucket(s3, conn.schema or bucket)
        return Registry(FileStore(where), where)
    if edition == "database":
        from adin.models.store_database import DatabaseStore

        return Registry(DatabaseStore(conn), Bucket(s3, conn.extra.get("bucket", bucket)))
    raise ConfigError(f"The connection amversion has no edition {edition!r}.", "Write database or files.")


class Registry:
    """Model versions and their logs.

    Reading never gives half a state: a store that fails raises, it is never taken for an empty one.

    :param store: edition that keeps logs and manifests.
    :param bucket: where artefact files lie, under the hash of their content.
    """

    def __init__(self, store: Store, bucket: Bucket) -> None:
        self.store = store
        self.bucket = bucket
        # entries never change, so those read once are only added to
        self._read: dict[str, _View] = {}
        self._safe = False

    # --- looking

    def models(self) -> list[str]:
        """Return the names of all models, sorted."""
        return self.store.models()

    def log(self, model: str) -> list[Entry]:
        """Return all entries of a model's log, oldest first; empty for an unknown model.

        :raises DataError: the log was tampered with.
        """
        return list(self._current(model).entries)

    def history(self, model: str) -> list[Entry]:
        """Return the entries that changed what is, or may come, under load, or say why a candidate does not."""
        telling = {"promote", "rollback", "undone", "freeze", "unfreeze", "ct_mode", "hold", "reject", "challenge"}
        return [entry for entry in self.log(model) if entry.event in telling]

    def state(self, model: str) -> State:
        """Return how a model stands: aliases, mode, pin, and the state of each version."""
        return self._current(model).state.copy()

    def champion(self, model: str) -> ModelVersion | None:
        """Return the champion, None if nothing was promoted yet."""
        number = self.state(model).champion
        return None if number is None else self.version(model, number)

    def version(self, model: str, number: int) -> ModelVersion:
        """Return one version.

        :raises NotFoundError: there is no such version.
        :raises DataError: its manifest is not the one that was registered.
        """
        digest = self._current(model).digests.get(number)
        if digest is None:
            raise NotFoundError(f"Model {model} has no version {number}.", f"See `adin model list {model}`.")
        return self._load(model, {number: digest})[0]

    def resolve(self, text: str) -> tuple[str, int]:
        """Return model and number of ``model:number``, ``model:alias`` or, for the champion, ``model``.

        :raises NotFoundError: there is no such version or alias.
        """
        model, _, wanted = text.partition(":")
        now = self._seen(model).state
        number = int(wanted) if wanted.isdecimal() else now.aliases.get(wanted or "champion")
        if number not in now.versions:
            known = ", ".join(now.aliases) or "none"
            raise NotFoundError(f"Model {model} has no version {wanted or 'champion'}.", f"Its aliases: {known}.")
        return model, int(number or 0)

    def versions(self, model: str) -> list[ModelVersion]:
        """Return all versions of a model, oldest first; empty for an unknown model."""
        return self._load(model, self._current(model).digests)

    def digests(self, model: str) -> dict[int, str]:
        """Return the hash of each version's manifest, by number; empty for an unknown model."""
        return dict(self._current(model).digests)

    def some(self, model: str, numbers: Iterable[int]) -> list[ModelVersion]:
        """Return versions of a model, in the order asked for."""
        digests = self._current(model).digests
        return self._load(model, {number: digests[number] for number in numbers})

    def search(self, query: Query) -> Page:
        """Return a page of the versions that fit all that is asked for."""
        hits = self.store.search(query, self._look)
        shown = hits[: query.limit]
        found: dict[tuple[str, int], ModelVersion] = {}
        for model in {hit.model for hit in shown}:
            digests = self._current(model).digests
            mine = {hit.number: digests[hit.number] for hit in shown if hit.model == model}
            found |= {(model, version.number): version for version in self._load(model, mine)}
        return Page(
            [found[hit.model, hit.number] for hit in shown],
            query.next(shown[-1]) if len(hits) > len(shown) else "",
        )

    def verify(self, model: str, *, files: bool = False) -> int:
        """Read a model's whole log anew and check it, its manifests and, if asked, its files; return the entries.

        :raises NotFoundError: there is no such model, or a manifest or file is gone.
        :raises DataError: something was changed after it was written.
        """
        _check_name(model)
        self._read.pop(model, None)
        if documents := self.store.documents(model, anew=True):
            self._read[model] = _grown(_View((), State(model), {}, {}), documents)
        entries = self.log(model)
        if not entries:
            raise NotFoundError(f"No model {model!r}.", "See `adin model list`.")
        self.store.recheck(model, self._look(model))
        kept = [version for version in self.versions(model) if version.number not in self.state(model).expired]
        stored = {file.sha256: file for version in kept for file in version.manifest.files}
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
            if files:
                list(pool.map(lambda file: self.fetch(model, file, Path(folder) / file.sha256), stored.values()))
        return len(entries)

    def read(self, model: str, number: int, name: str) -> bytes:
        """Return the content of one of a version's files, checked; for small files such as evidence.

        :raises NotFoundError: the version has no such file.
        :raises DataError: its content is not the one that was registered.
        """
        files = {file.name: file for file in self._whole(model, number).manifest.files}
        if name not in files:
            raise NotFoundError(f"Version {number} of {model} has no file {name}.", f"It has: {', '.join(files)}.")
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(model, files[name], path := Path(folder) / "file")
            return path.read_bytes()

    def download(self, model: str, number: int, target: Path) -> Path:
        """Copy a version's files into a folder and return it; only open what lies there after this returned.

        :param target: made if need be; gets the files and ``manifest.json``.
        :raises DataError: a file's content is not the one that was registered; nothing of that name is left.
        """
        version = self._whole(model, number)
        target.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda file: self.fetch(model, file, target / file.name), version.manifest.files))
        (target / MANIFEST).write_bytes(version.manifest.document)
        return target

    # --- changing

    def register(
        self, model: str, manifest: Mapping[str, Any], files: Mapping[str, Path], *, actor: str, run_key: str
    ) -> ModelVersion:
        """Keep a trained model as the next version, or return the version this run has registered before.

        Files first, then the manifest, then the log entry which makes the version exist: a run that is killed on
        the way leaves nothing to be seen, and the same run, started again, completes.

        :param manifest: fields of :class:`ModelManifest`; ``model``, ``files``, ``run_key`` and, if absent,
            ``created`` are filled in here.
        :param files: artefacts by name; ``manifest.json`` is taken.
        :param run_key: key of the work; one key, one version.
        :raises DataError: the manifest lacks something, or a file is missing.
        """
        _check_name(model)
        if found := self._registered(model, run_key):
            return self._settled(found, files)
        swept = self._swept()
        kept = [_described(name, path) for name, path in sorted(files.items())]
        created = manifest.get("created") or datetime.now(UTC)
        facts = {**manifest, "model": model, "run_key": run_key, "created": created, "files": kept}
        checked = ModelManifest.of(facts)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda file: self.bucket.upload(file_key(model, file), files[file.name]), checked.files))
        self.store.put_manifest(model, checked.digest, checked.document)
        for wait in waits():
            now = self.state(model)
            number = now.next_version
            evidence = {
                "manifest": checked.digest,
                "dataset": checked.dataset,
                "metrics": checked.metrics.get("test", {}).get("all", {}),
            }
            entry = following(
                now, "register", version=number, actor=actor, reason="trained", evidence=evidence, run_key=run_key
            )
            if self.write([entry], {number: "registered"}):
                version = ModelVersion(model, number, checked.digest, checked)
                return version if self.settle() == swept and b"until" not in swept else self._settled(version, files)
            if found := self._registered(model, run_key):
                return found
            time.sleep(wait)
        raise ConflictError(f"{model}: {_TRIES} other writers came first.", "Run it again.")

    def append(
        self,
        model: str,
        event: Event,
        *,
        version: int | None = None,
        actor: str,
        reason: str,
        expect_seq: int | None = None,
        mode: Mode | None = None,
        alias: str = "",
        evidence: Mapping[str, Any] | None = None,
        run_key: str = "",
        begin: bool = False,
    ) -> Entry:
        """Write the next entry of a model's log: the change itself.

        :param expect_seq: last entry the caller has seen; None accepts whatever came in between.
        :param mode: mode of continuous training after the event; for ``ct_mode``, ``rollback`` and ``unfreeze``.
        :param alias: name for the event ``alias``: given to the version, or taken away where there is none.
        :param run_key: a run that has written this event already gets that entry back.
        :param begin: the log may begin with it: training is stopped, or the model frozen, before it has a version.
        :raises ConflictError: there are entries behind ``expect_seq``.
        :raises RefusedError: the event is not allowed as things stand.
        :raises NotFoundError: there is no such model.
        """
        if event == "register":
            raise RefusedError("A version comes with its manifest.", "Use Registry.register.")
        if event == "ct_mode" and mode is None:
            raise RefusedError("The event ct_mode needs a mode.", "Give auto_deploy, train_only or stopped.")
        for wait in waits():
            view = self._current(model) if begin else self._seen(model)
            if run_key and (found := _written(view, event, version, run_key, mode)):
                return found
            if expect_seq is not None and view.state.seq != expect_seq:
                raise ConflictError(
                    f"The log of {model} is at entry {view.state.seq}, not at {expect_seq}.", "Read it and decide anew."
                )
            facts = {"mode": mode, "alias": alias, "evidence": dict(evidence or {}), "run_key": run_key}
            if event == "validate" and version in view.digests and self.version(model, version).manifest.experimental:
                raise RefusedError(
                    f"Version {version} of {model} came of an experimental run: it is never deployed.",
                    "Train in production on the same data and code.",
                )
            if entry := self._next(view, event, version=version, actor=actor, reason=reason, **facts):
                return entry
            time.sleep(wait)
        raise ConflictError(f"{model}: {_TRIES} other writers came first.", "Run it again.")

    def promote(
        self,
        model: str,
        version: int,
        *,
        against: int | None,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any] | None = None,
        run_key: str = "",
        automatic: bool = False,
    ) -> Entry:
        """Make a validated version champion, if it was compared with the version that still is.

        :param against: champion the version was compared with, None for the first.
        :param run_key: a run that has promoted the version already gets that entry back.
        :param automatic: nobody asked for it by hand; refused unless the mode is ``auto_deploy``.
        :raises ConflictError: the champion is another by now: compare with that one.
        :raises RefusedError: the model is frozen, its mode forbids it, or the version is in no state for it.
        """
        for wait in waits():
            view = self._seen(model)
            now = view.state
            if run_key and (found := _written(view, "promote", version, run_key)):
                return found
            if automatic and now.mode != "auto_deploy":
                raise RefusedError(
                    f"Version {version} of {model} is not promoted: its mode is {now.mode}.",
                    f"Resume with `adin ct resume {model}`.",
                )
            if now.champion != against:
                raise ConflictError(
                    f"Version {version} of {model} was compared with {_named(against)}, but the champion is "
                    f"{_named(now.champion)}.",
                    "Compare it with that one.",
                )
            facts = {"evidence": {"against": against, **(evidence or {})}, "run_key": run_key}
            if entry := self._next(view, "promote", version=version, actor=actor, reason=reason, **facts):
                return entry
            time.sleep(wait)
        raise ConflictError(f"{model}: {_TRIES} other writers came first.", "Run it again.")

    # --- inside

    def settle(self) -> bytes:
        """Wait until nothing is being deleted: what was written before this is then either safe or missing.

        :returns: what tells the last collection from the one before it.
        :raises ConflictError: it takes too long.
        """
        for wait in waits():
            swept = self._swept()
            if not swept or json.loads(swept).get("until", "") <= datetime.now(UTC).isoformat():
                return swept
            time.sleep(wait)
        raise ConflictError("Model files are being collected.", "Run it again; what was registered stays registered.")

    def _swept(self) -> bytes:
        noted = self.store.note(SWEEP)
        return noted[0] if noted else b""

    def _settled(self, version: ModelVersion, files: Mapping[str, Path]) -> ModelVersion:
        """Put back what a collection took away while the version was registered."""
        self.settle()
        model, manifest = version.model, version.manifest
        self.store.put_manifest(model, version.digest, manifest.document)
        given = [file for file in manifest.files if file.name in files]
        with ThreadPoolExecutor(4) as pool:
            there = pool.map(lambda file: self.bucket.exists(file_key(model, file)), given)
            for file in [file for file, found in zip(given, there, strict=True) if not found]:
                if _sha256(files[file.name]) == file.sha256:
                    self.bucket.upload(file_key(model, file), files[file.name])
        return version

    def _current(self, model: str) -> _View:
        _check_name(model)
        view = self._read.get(model) or _View((), State(model), {}, {})
        if new := self.store.documents(model, view.state.seq):
            view = self._read[model] = _grown(view, new)
        return view

    def _look(self, model: str) -> Known:
        view = self._current(model)
        return Known(view.state.seq, view.state.versions, view.digests)

    def _whole(self, model: str, number: int) -> ModelVersion:
        """Return a version that has its files."""
        if number in self._current(model).state.expired:
            raise NotFoundError(f"Version {number} of {model} gave up its files.", "It was never champion; train anew.")
        return self.version(model, number)

    def _seen(self, model: str) -> _View:
        """Return a log that has entries."""
        view = self._current(model)
        if not view.entries:
            raise NotFoundError(f"No model {model!r}.", "See `adin model list`.")
        return view

    def _next(self, view: _View, event: Event, *, version: int | None, **facts: Any) -> Entry | None:
        """Write the entry that follows a log as it was read; return None if others came first."""
        now = view.state.copy()
        touched = {version, *now.aliases.values()}
        entry = following(now, event, version=version, **facts)
        touched |= set(now.aliases.values())
        states = {number: now.versions[number] for number in touched if number is not None}
        if not self.write([entry], states):
            return None
        told = {"happened": event, "model": entry.model, "version": version, "actor": entry.actor, "run": entry.run_key}
        log.info("%s: %s: %s", entry.model, event, entry.reason, extra=told)
        return entry

    def _load(self, model: str, digests: Mapping[int, str]) -> list[ModelVersion]:
        documents = self.store.manifests(model, set(digests.values())) if digests else {}
        return [
            ModelVersion(model, number, digest, ModelManifest.read(documents[digest], digest))
            for number, digest in digests.items()
        ]

    def _registered(self, model: str, run_key: str) -> ModelVersion | None:
        number = self._current(model).runs.get(run_key)
        return self.version(model, number) if number else None

    def write(self, entries: Sequence[Entry], states: Mapping[int, VersionState]) -> bool:
        """Write entries that follow the log as it was read; return False if others came first.

        A number that is taken may be taken by this very entry, whose reply got lost.

        :param states: state of each version the entries touch, after them.
        :raises ConfigError: the store lets two writers win.
        """
        if not self._safe:
            ensure_safe(self.store)
            self._safe = True
        if self.store.append(entries, states):
            return True
        found = self.store.documents(entries[0].model, entries[0].seq - 1)
        return bool(found) and Entry.read(found[0]).id == entries[0].id

    def fetch(self, model: str, file: File, path: Path) -> Path:
        """Copy one artefact to a path; :raises DataError: its content is not the one that was registered."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            self.bucket.download(file_key(model, file), part)
            if _sha256(part) != file.sha256:
                raise DataError(
                    f"{file.name} of model {model} is not the file that was registered: its SHA-256 differs.",
                    "Do not open it. Restore the object from a backup.",
                )
            return part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _written(view: _View, event: Event, version: int | None, run_key: str, mode: Mode | None = None) -> Entry | None:
    """Return the entry a run has written for an event, unless a later entry took it back."""
    voiding = _VOIDED_BY.get(event, set())
    for entry in reversed(view.entries):
        if (entry.event, entry.version, entry.run_key) == (event, version, run_key):
            return entry if mode in (None, entry.mode) else None
        if entry.event in voiding and (version is None or entry.version in (None, version)):
            return None
    return None


def _grown(view: _View, documents: Iterable[str]) -> _View:
    """Return a log with more documents read; the one before stays as it is."""
    new = [Entry.read(document) for document in documents]
    registered = [entry for entry in new if entry.event == "register" and entry.version]
    return _View(
        (*view.entries, *new),
        state(view.state.model, new, view.state.copy()),
        view.digests | manifest_digests(new),
        {entry.run_key: entry.version or 0 for entry in registered} | view.runs,
    )


def _check_name(model: str) -> None:
    if not re.fullmatch(NAME, model):
        raise ConfigError(f"{model!r} is no model name.", "Use lower case letters, digits, _ and -, a letter first.")


def waits() -> Iterable[float]:
    """Yield the seconds to wait after each try; random, so that writers who met once do not meet again."""
    for attempt in range(_TRIES):
        yield random.uniform(0, min(0.1, 0.01 * 2 ** min(attempt, 4)))  # noqa: S311 - no secret


def _described(name: str, path: Path) -> dict[str, Any]:
    if name == MANIFEST:
        raise DataError(f"No artefact may be called {MANIFEST}.", "The registry writes a file of this name itself.")
    if not path.is_file():
        raise DataError(f"The artefact {name} is missing: there is no file {path}.", "Write it before registering.")
    return {"name": name, "sha256": _sha256(path), "bytes": path.stat().st_size}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_key(model: str, file: File) -> str:
    """Return the key of an artefact in the bucket."""
    return f"{model}/files/{file.sha256}"


def _named(champion: int | None) -> str:
    return "no champion" if champion is None else f"version {champion}"
