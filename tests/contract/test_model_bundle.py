"""Models moved between registries as one file."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConflictError, DataError, NotFoundError
from adin.models import Query, Registry, registry
from adin.models.bundle import export_bundle, import_bundle
from adin.models.doctor import ensure_safe
from model_facts import files, register, validated
from processes import at_once
from server_fixtures import of_edition, own_registry
from servers import Servers, s3_client
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(16)


@pytest.fixture
def models(edition: Connection, servers: Servers) -> Registry:
    return registry(edition, s3=servers.s3)


@pytest.fixture
def other(edition: Connection, stack: dict[str, Connection]) -> Iterator[Connection]:
    """An empty registry of the other edition."""
    with own_registry(stack) as found:
        yield of_edition(found, "files" if edition.extra["edition"] == "database" else "database")


@pytest.fixture
def filled(models: Registry, model: str, tmp_path: Path) -> str:
    """A model with two versions, a champion and a pin."""
    for n in range(2):
        validated(models, model, files(tmp_path / str(n)), f"run-{n}")
    models.promote(model, 1, against=None, actor="test", reason="first")
    models.append(model, "alias", version=2, alias="candidate", actor="test", reason="looks good")
    models.append(model, "freeze", actor="test", reason="holiday")
    return model


def test_a_model_moves_to_the_other_edition_and_back_with_log_manifests_and_files(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "models.tar"
    (taken,) = export_bundle(models, bundle, [filled])
    assert (taken.versions, taken.entries, taken.files) == (2, 7, 3)
    there = registry(other, s3=servers.s3)
    (brought,) = import_bundle(there, bundle)
    assert (brought.new, brought.entries) == (7, 7)
    assert there.log(filled) == models.log(filled)
    assert there.state(filled) == models.state(filled)
    assert there.versions(filled) == models.versions(filled)
    assert there.verify(filled, files=True) == 7
    assert [v.number for v in there.search(Query("*", state="champion")).versions] == [1]
    assert (
        there.download(filled, 2, tmp_path / "got").joinpath("model.joblib").read_bytes()
        == (tmp_path / "1" / "model.joblib").read_bytes()
    )
    again = tmp_path / "again.tar"
    export_bundle(there, again)
    assert _contents(again) == _contents(bundle)
    (back,) = import_bundle(models, again)
    assert back.new == 0


def test_an_import_again_changes_nothing_and_a_later_bundle_brings_what_is_new(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path
) -> None:
    early, late = tmp_path / "early.tar", tmp_path / "late.tar"
    export_bundle(models, early, [filled])
    models.append(filled, "unfreeze", actor="test", reason="over")
    register(models, filled, files(tmp_path / "3"), "run-3")
    models.promote(filled, 2, against=1, actor="test", reason="better")
    export_bundle(models, late, [filled])
    there = registry(other, s3=servers.s3)
    for bundle, new in ((early, 7), (early, 0), (late, 3), (early, 0), (late, 0)):
        assert [moved.new for moved in import_bundle(there, bundle)] == [new]
    assert there.log(filled) == models.log(filled)
    assert there.verify(filled, files=True) == 10
    assert [v.number for v in there.search(Query(filled, state="retired")).versions] == [1]
    # the log goes on from here
    there.append(filled, "ct_mode", mode="stopped", actor="test", reason="moved")
    assert registry(other, s3=servers.s3).state(filled).mode == "stopped"


def test_a_model_that_went_another_way_is_not_imported(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "models.tar"
    export_bundle(models, bundle, [filled])
    there = registry(other, s3=servers.s3)
    import_bundle(there, bundle)
    there.append(filled, "unfreeze", actor="there", reason="over")
    models.append(filled, "unfreeze", actor="here", reason="over")
    export_bundle(models, bundle, [filled])
    before = there.log(filled)
    with pytest.raises(ConflictError, match="another from entry 8 on"):
        import_bundle(there, bundle)
    assert there.log(filled) == before


def _contents(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    index = json.loads(found.pop("bundle.json"))
    return found | {"models": json.dumps(index["models"], sort_keys=True).encode()}


def _rewritten(bundle: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change members, and the index so that it fits what it lists."""
    import hashlib

    with tarfile.open(bundle) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    index = json.loads(found.pop("bundle.json"))
    change(found)
    index["members"] = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    with tarfile.open(bundle, "w") as archive:
        for name, content in {"bundle.json": json.dumps(index).encode(), **found}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def _first(found: dict[str, bytes], part: str) -> str:
    return next(name for name in found if part in name)


def _spoil(part: str) -> Callable[[dict[str, bytes]], None]:
    def change(found: dict[str, bytes]) -> None:
        name = _first(found, part)
        found[name] = found[name].replace(b"test", b"tset") if part != "/files/" else bytes(len(found[name]))

    return change


def _drop(part: str) -> Callable[[dict[str, bytes]], None]:
    return lambda found: found.pop(_first(found, part)) and None


def _shorten(found: dict[str, bytes]) -> None:
    name = _first(found, "log.jsonl")
    found[name] = b"\n".join(found[name].splitlines()[:-1])


@pytest.mark.parametrize(
    "change",
    [_spoil("log.jsonl"), _spoil("/manifests/"), _spoil("/files/"), _drop("/manifests/"), _drop("/files/"), _shorten],
    ids=["log changed", "manifest changed", "file changed", "manifest gone", "file gone", "log cut"],
)
def test_a_bundle_that_was_changed_is_refused_and_nothing_is_imported(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path, change: Any
) -> None:
    bundle = tmp_path / "models.tar"
    export_bundle(models, bundle, [filled])
    _rewritten(bundle, change)
    there = registry(other, s3=servers.s3)
    with pytest.raises(DataError):
        import_bundle(there, bundle)
    assert there.models() == []
    assert not list(s3_client(servers.s3).list_objects(there.bucket.name, recursive=True))


def test_a_bundle_cut_short_or_flipped_by_one_bit_is_refused(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path
) -> None:
    bundle, there = tmp_path / "models.tar", registry(other, s3=servers.s3)
    export_bundle(models, bundle, [filled])
    whole = bundle.read_bytes()
    at = whole.index((tmp_path / "0" / "model.joblib").read_bytes())
    for broken in (whole[: len(whole) // 2], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], b"no tar"):
        bundle.write_bytes(broken)
        with pytest.raises(DataError):
            import_bundle(there, bundle)
    with pytest.raises(NotFoundError):
        import_bundle(there, tmp_path / "nothing.tar")
    assert there.models() == []


def _killed(n: int, barrier: Any, queue: Any, conn: Connection, s3: Connection, args: Any) -> None:
    place, call, bundle = args
    models = registry(conn, s3=s3)
    ensure_safe(models.store)
    real, count = getattr(getattr(models, place), call), [0]

    def die(*given: Any) -> Any:
        count[0] += 1
        if count[0] == 2 or call == "append":
            queue.put(os.getpid())
            queue.close()
            queue.join_thread()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    setattr(getattr(models, place), call, die)
    import_bundle(models, Path(bundle))


@pytest.mark.parametrize("step", [("bucket", "upload"), ("store", "put_manifest"), ("store", "append")])
def test_an_import_killed_on_the_way_shows_nothing_and_completes_when_run_again(
    models: Registry, other: Connection, servers: Servers, filled: str, tmp_path: Path, step: tuple[str, str]
) -> None:
    bundle = tmp_path / "models.tar"
    export_bundle(models, bundle, [filled])
    at_once(1, _killed, other, servers.s3, (*step, str(bundle)))
    there = registry(other, s3=servers.s3)
    assert (there.models(), there.log(filled)) == ([], [])
    assert [moved.new for moved in import_bundle(there, bundle)] == [7]
    assert there.verify(filled, files=True) == 7


def test_a_failed_export_leaves_the_former_bundle(models: Registry, filled: str, tmp_path: Path) -> None:
    bundle = tmp_path / "models.tar"
    export_bundle(models, bundle, [filled])
    before = bundle.read_bytes()
    version = models.version(filled, 1)
    models.bucket.remove(f"{filled}/files/{version.manifest.files[0].sha256}")
    with pytest.raises(NotFoundError):
        export_bundle(models, bundle, [filled])
    assert bundle.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_commands_move_a_model(
    edition: Connection,
    other: Connection,
    servers: Servers,
    filled: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    bundle = str(tmp_path / "models.tar")
    told = []
    for conn, words in ((edition, ["export", bundle, filled]), (other, ["import", bundle]), (other, ["list"])):
        monkeypatch.setenv("ADIN_CONN_AMVERSION", conn.uri)
        done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
        told.append(json.loads(done.stdout))
    assert [told[0][0]["new"], told[1][0]["new"]] == [7, 7]
    assert [(each["model"], each["champion"], each["frozen"]) for each in told[2]] == [(filled, 1, True)]
