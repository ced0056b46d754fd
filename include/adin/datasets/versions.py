"""Dataset versions: a point-in-time training set, frozen as one lakeFS commit with a manifest.

The hash of all inputs stands in the commit's metadata and is looked up before anything is built: the same request
gives the same version, and a build that was killed leaves nothing but a branch of its own, removed by the next.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adin.datasets import objects
from adin.datasets.lake import BUILD, TRY, Lake
from adin.errors import ConfigError, ConflictError, DataError, NotFoundError, ServiceError
from adin.features import repo
from adin.features.offline import offline
from adin.features.snapshot import snapshot
from adin.problem import Problem, problem
from adin.run_key import content_hash
from adin.settings import ROOT, settings
from adin.window import Window

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.json"
REGISTRY = "registry.json"
_INPUTS = "adin_inputs"
#: Temporary tables older than this belong to builds that are dead.
_ABANDONED_AFTER = timedelta(hours=6)


@dataclass(frozen=True)
class DatasetVersion:
    """One immutable training set.

    :param commit: lakeFS commit id; the version's name everywhere.
    :param manifest: what it was made of; see ``docs/datasets.md``.
    """

    problem: str
    commit: str
    manifest: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, int]:
        """Return the number of rows of each split."""
        return dict(self.manifest["rows"])

    @property
    def window(self) -> Window:
        """Return the window of events the version covers."""
        return Window.from_text(self.manifest["window"])


def build(
    name: str,
    window: Window,
    key: str,
    *,
    branch: str = "",
    lake: Lake | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> DatasetVersion:
    """Build the training set of a problem for a window, or find the version already built from the same inputs.

    :param name: problem.
    :param window: events to learn from; the last spans of it become the validate and test splits.
    :param key: run key; names the Spark job and stands in the commit.
    :param branch: experiment whose own branch of the data gets the version; default production's.
    :param progress: called with one line at each step.
    :raises DataError: no features or labels for the window, the counts of a step disagree, or the feature service is
        not applied as the repository has it.
    :raises ServiceError: features were published meanwhile; the next try takes them.
    """
    spec = problem(name)
    lake = lake or Lake()
    inputs = _inputs(spec, window)
    digest = content_hash(inputs)
    if found := find(name, digest, lake=lake) or (branch and find(name, digest, branch=branch, lake=lake)):
        if branch:
            lake.ensure_branch(branch_of(name, branch), found.commit)
        _drop_temporary(name, digest, lake)  # of a try that was killed just after its commit
        progress(f"found {found.commit[:12]}: same inputs, same version")
        return found
    _drop_abandoned()
    registry = snapshot(repo.service(spec.domain, spec.features))
    table = _table(name, digest)
    store = offline()
    progress("point-in-time join")
    result = store.training_set(spec, window, table, key)
    if content_hash(_inputs(spec, window)) != digest:
        store.drop(table)
        store.forget(key)
        raise ServiceError(
            f"Features of {name} were published while its training set was joined.", "The next try takes the new ones."
        )
    progress(f"{sum(result['rows'].values()):,} rows; copying to lakeFS")
    version = _publish(spec, inputs, digest, result, registry, key, lake, branch)
    _drop_temporary(name, digest, lake)
    progress(f"committed {version.commit[:12]}")
    return version


def find(name: str, digest: str, *, branch: str = "", lake: Lake | None = None) -> DatasetVersion | None:
    """Return the version of a problem built from the inputs with this hash, if there is one that has its files."""
    lake = lake or Lake()
    built = [c.id for c in lake.log(branch_of(name, branch)) if (c.metadata or {}).get(_INPUTS) == digest]
    whole = [commit for commit in built if commit not in lake.expired()] if built else []
    return version(name, whole[0], lake=lake) if whole else None


def version(name: str, commit: str, *, lake: Lake | None = None) -> DatasetVersion:
    """Return one version by its commit id, which may be shortened.

    :raises NotFoundError: there is no such commit, or it holds no dataset of this problem.
    """
    lake = lake or Lake()
    try:
        commit = lake.resolve(commit)
        manifest = json.loads(lake.read(commit, MANIFEST))
    except NotFoundError:
        raise NotFoundError(f"No dataset version {commit!r}.", f"List them with `adin dataset list {name}`.") from None
    if manifest["problem"] != name:
        raise NotFoundError(f"Commit {commit[:12]} is a dataset of {manifest['problem']}, not of {name}.")
    return DatasetVersion(name, commit, manifest)


def versions(name: str, *, branch: str = "", lake: Lake | None = None) -> list[DatasetVersion]:
    """Return all versions of a problem in production, or on an experiment's branch, newest first."""
    lake = lake or Lake()
    log = lake.log(branch_of(name, branch))
    return [version(name, commit.id, lake=lake) for commit in log if is_version(commit, name)]


def branch_of(name: str, experiment: str = "") -> str:
    """Return the branch of the data: production's is named as the problem, an experiment has one of its own.

    :raises ConfigError: the experiment's name cannot be part of a branch's.
    """
    if not experiment:
        return name
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", experiment):
        raise ConfigError(f"{experiment!r} cannot name an experiment.", "Use lower case letters, digits and -.")
    return f"{TRY}{name}-{experiment}"


def drop_branch(name: str, experiment: str, *, lake: Lake | None = None) -> None:
    """Delete an experiment's branch of the data; no error if it is gone. Versions of production are no part of it."""
    if not experiment:
        raise ConfigError("Production's branch is not dropped.", "Name an experiment.")
    (lake or Lake()).delete_branch(branch_of(name, experiment))


def in_production(name: str, commit: str, *, lake: Lake | None = None) -> bool:
    """Tell whether a version lies on the production branch, not only on an experiment's."""
    return any(each.id == commit for each in (lake or Lake()).log(name))


def newest(name: str, *, branch: str = "", lake: Lake | None = None) -> DatasetVersion:
    """Return the newest version of a problem; :raises NotFoundError: there is none yet."""
    lake = lake or Lake()
    log = lake.log(branch_of(name, branch))
    commit = next((commit.id for commit in log if is_version(commit, name)), None)
    if commit is None:
        raise NotFoundError(f"No dataset version of {name} yet.", f"Build one: DAG train__{name}.")
    return version(name, commit, lake=lake)


def is_version(commit: Any, name: str) -> bool:
    """Tell whether a commit of lakeFS's log is a version of a problem."""
    found = commit.metadata or {}
    return _INPUTS in found and found.get("adin_problem") == name


def download(name: str, commit: str, target: Path, *, lake: Lake | None = None) -> DatasetVersion:
    """Copy a version's files below a folder and verify each against the manifest.

    :param target: gets ``data/split=<split>/*.parquet``, ``objects/<name>/..``, ``registry.json``, ``manifest.json``.
    :raises DataError: a file's hash differs from the manifest.
    :raises NotFoundError: there is no such version, or it gave up its files.
    """
    lake = lake or Lake()
    found = kept(name, commit, lake=lake)

    def fetch(entry: Mapping[str, Any]) -> None:
        content = lake.read(found.commit, entry["path"])
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DataError(f"{entry['path']} of commit {found.commit[:12]} differs from its manifest.")
        path = target / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    # versions made before there were snapshots have none
    snapshots = [found.manifest["registry_snapshot"]] if "registry_snapshot" in found.manifest else []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, [*found.manifest["files"], *snapshots]))
    objects.fetch(found.manifest, found.commit, target, lake)
    (target / MANIFEST).write_text(json.dumps({"commit": found.commit, **found.manifest}, indent=2))
    return found


def frame(name: str, commit: str, split: str, *, lake: Lake | None = None) -> pyarrow.Table:
    """Return one split of a version as an Arrow table, verified, for notebooks and small sets."""
    import io

    import pyarrow
    import pyarrow.parquet

    lake = lake or Lake()
    found = kept(name, commit, lake=lake)
    entries = [entry for entry in found.manifest["files"] if entry["split"] == split]
    if not entries:
        raise NotFoundError(f"Version {commit[:12]} has no split {split!r}.", f"It has {', '.join(found.rows)}.")
    contents = [lake.read(found.commit, entry["path"]) for entry in entries]
    return pyarrow.concat_tables(pyarrow.parquet.read_table(io.BytesIO(content)) for content in contents)


def kept(name: str, commit: str, *, lake: Lake | None = None) -> DatasetVersion:
    """Return one version that has its files.

    :raises NotFoundError: there is no such version, or it gave up its files.
    """
    lake = lake or Lake()
    found = version(name, commit, lake=lake)
    if found.commit in lake.expired():
        raise NotFoundError(
            f"Dataset {commit[:12]} of {name} gave up its files: no kept model came of it.",
            f"Build it again: `adin dataset build {name}` with the window {found.window}.",
        )
    return found


def inputs_hash(name: str, window: Window) -> str:
    """Return the hash of everything the training set of a window would be made from now."""
    return content_hash(_inputs(problem(name), window))


def _inputs(spec: Problem, window: Window) -> dict[str, Any]:
    """Return everything a training set depends on; equal inputs mean an equal training set."""
    service = repo.service(spec.domain, spec.features)
    tables = {view.table for view in service.views} | {spec.label.table}
    last, store = window.days[-1].isoformat(), offline()
    sources = {
        table: {day: part.fingerprint for day, part in sorted(store.partitions(table).items()) if day <= last}
        for table in sorted(tables)
    }
    if empty := [table for table, days in sources.items() if not days]:
        raise DataError(
            f"No published partition before {window.end:%Y-%m-%d} in {', '.join(empty)}.",
            f"Run features__{spec.domain} for the window first.",
        )
    carried = {"objects": objects.listed(spec)} if spec.objects else {}
    return carried | {
        "problem": spec.name,
        "window": str(window),
        "label": spec.label.model_dump(mode="json"),
        "event_time": spec.event_time,
        "predict_before": spec.predict_before.total_seconds(),
        "split": spec.split.model_dump(),
        "service": service.name,
        "features": list(service.columns),
        "registry": repo.definitions_hash(spec.domain),
        "join": _hash_of_files(store.code),
        "sources": sources,
    }


def _publish(
    spec: Problem,
    inputs: dict[str, Any],
    digest: str,
    result: dict[str, Any],
    registry: bytes,
    key: str,
    lake: Lake,
    experiment: str,
) -> DatasetVersion:
    """Copy the temporary table to a branch of its own and bring it to the problem's branch as one commit."""
    branch, target = _branch(spec.name, digest), branch_of(spec.name, experiment)
    lake.ensure_branch(spec.name)
    lake.ensure_branch(target, spec.name)
    for attempt in range(5):
        lake.delete_branch(branch)
        lake.create_branch(branch, target)
        objects.bring(spec, inputs.get("objects", []), branch, lake)
        lake.delete(branch, [path for path in lake.paths(branch) if not path.startswith(objects.FOLDER)])
        files = _copy(result, branch, lake)
        lake.upload(branch, REGISTRY, registry)
        kept = {"path": REGISTRY, "sha256": hashlib.sha256(registry).hexdigest(), "bytes": len(registry)}
        manifest = {**_manifest(inputs, result, files, key), "registry_snapshot": kept}
        lake.upload(branch, MANIFEST, json.dumps(manifest, indent=2).encode())
        metadata = {_INPUTS: digest, "adin_run_key": key, "adin_window": inputs["window"], "adin_problem": spec.name}
        lake.commit(branch, f"Stage {spec.name} {inputs['window']}", metadata)
        try:
            commit = lake.squash(branch, target, f"Dataset {spec.name} {inputs['window']}", metadata)
        except ConflictError:
            if found := find(spec.name, digest, branch=experiment, lake=lake):
                return found
            if attempt == 4:
                raise
            continue  # another version came first: build on top of it
        return DatasetVersion(spec.name, commit, manifest)
    raise AssertionError("unreachable")


def _copy(result: Mapping[str, Any], branch: str, lake: Lake) -> list[dict[str, Any]]:
    """Copy the table as Parquet files; rows are counted from the files' own footers."""
    import io

    import pyarrow.parquet

    def copy(source: tuple[str, Callable[[], bytes]]) -> dict[str, Any]:
        name, read = source
        content, path = read(), f"data/{name}"
        lake.upload(branch, path, content)
        return {
            "path": path,
            "split": name.partition("/")[0].removeprefix("split="),
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "rows": pyarrow.parquet.ParquetFile(io.BytesIO(content)).metadata.num_rows,
        }

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(copy, offline().files(result)))


def _manifest(inputs: dict[str, Any], result: dict[str, Any], files: list[dict[str, Any]], key: str) -> dict[str, Any]:
    counted: dict[str, int] = {}
    for entry in files:
        counted[entry["split"]] = counted.get(entry["split"], 0) + entry["rows"]
    expected = {split: rows for split, rows in result["rows"].items() if rows}
    if counted != expected:
        raise DataError(f"The join wrote {expected} rows but its files hold {counted}.", "Run the task again.")
    return {
        **inputs,
        "rows": result["rows"],
        "dropped_unlabelled": result["dropped_unlabelled"],
        "files": files,
        "code_version": _code_version(),
        "run_key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _table(name: str, digest: str) -> str:
    return f"{settings().temp_database}.{name}_{digest[:16]}"


def _branch(name: str, digest: str) -> str:
    return f"{BUILD}{name}-{digest[:16]}"


def table_of(branch: str) -> str | None:
    """Return the name of the temporary table whose rows a build's branch gets; None for any other branch."""
    if not branch.startswith(BUILD):
        return None
    name, _, digest = branch.removeprefix(BUILD).rpartition("-")
    return f"{name}_{digest}"


def _drop_temporary(name: str, digest: str, lake: Lake) -> None:
    offline().drop(_table(name, digest))
    lake.delete_branch(_branch(name, digest))


def _drop_abandoned() -> None:
    limit, store = datetime.now(UTC) - _ABANDONED_AFTER, offline()
    for table, created in store.temporary().items():
        if created < limit:
            store.drop(f"{settings().temp_database}.{table}")


def _hash_of_files(paths: Any) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _code_version() -> str:
    """Return the commit of the project's code, or its version where it is no checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    from importlib.metadata import version as installed

    return installed("adin-mlops")
