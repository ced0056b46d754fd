"""A dataset version carries images and texts beside its table, without a copy of them."""

from __future__ import annotations

import hashlib
import io
import json
from uuid import uuid4

import pytest
from adin import datasets
from adin.connections import connection
from adin.datasets import objects
from adin.datasets.lake import Lake
from adin.errors import DataError
from adin.problem import problem
from servers import s3_client

pytestmark = pytest.mark.flow(7, 24)
NAME = "flights_delay"


@pytest.fixture
def bucket():
    """A bucket of raw objects, as somebody else fills it."""
    client, name = s3_client(connection("s3")), f"raw-{uuid4().hex[:12]}"
    client.make_bucket(name)
    yield name
    for entry in list(client.list_objects(name, recursive=True)):
        client.remove_object(name, entry.object_name)
    client.remove_bucket(name)


def put(bucket: str, key: str, content: bytes) -> None:
    s3_client(connection("s3")).put_object(bucket, key, io.BytesIO(content), len(content))


@pytest.fixture
def spec(bucket):
    """A problem with two kinds of objects."""
    for number in range(20):
        put(bucket, f"photos/day=1/{number}.jpg", bytes([number]) * 1000)
    put(bucket, "texts/note.txt", b"hello")
    carried = [{"name": name, "source": f"s3://{bucket}/{name}/"} for name in ("photos", "texts")]
    found = problem(NAME)
    return type(found).model_validate(found.model_dump() | {"objects": carried, "path": found.path})


@pytest.fixture
def branch():
    lake, name = Lake(), f"try-objects-{uuid4().hex[:8]}"
    lake.ensure_branch(name)
    yield name
    lake.delete_branch(name)


def version(spec, branch: str) -> str:
    """Commit a version with the objects there are now; its table plays no part here."""
    lake, wanted = Lake(), objects.listed(spec)
    objects.bring(spec, wanted, branch, lake)
    manifest = {"problem": NAME, "window": "2013-01-01/2013-02-01", "rows": {}, "files": [], "objects": wanted}
    lake.upload(branch, datasets.MANIFEST, json.dumps(manifest).encode())
    return lake.commit(branch, "a version", {})


def test_objects_come_in_without_a_copy_and_are_read_back_by_commit(spec, bucket, branch, tmp_path):
    commit = version(spec, branch)
    entries = list(Lake().objects(commit, objects.FOLDER))
    assert len(entries) == 21
    assert all(entry.physical_address.startswith(f"s3://{bucket}/") for entry in entries)
    found = datasets.download(NAME, commit, tmp_path)
    assert (tmp_path / "objects/photos/day=1/7.jpg").read_bytes() == bytes([7]) * 1000
    assert (tmp_path / "objects/texts/note.txt").read_bytes() == b"hello"
    told = {entry["path"]: entry for entry in found.manifest["objects"]}
    assert told["objects/texts/note.txt"]["etag"] == hashlib.md5(b"hello").hexdigest()
    assert told["objects/texts/note.txt"]["source"] == f"s3://{bucket}/texts/note.txt"


def test_a_version_keeps_its_objects_when_others_are_added_and_the_next_has_them_all(spec, bucket, branch, tmp_path):
    before, first = objects.listed(spec), version(spec, branch)
    put(bucket, "texts/more.txt", b"more")
    s3_client(connection("s3")).remove_object(bucket, "photos/day=1/19.jpg")
    assert objects.listed(spec) != before  # other inputs: another version is built
    second = version(spec, branch)
    paths = [{entry.path for entry in Lake().objects(commit, objects.FOLDER)} for commit in (first, second)]
    assert paths[1] - paths[0] == {"objects/texts/more.txt"}
    assert paths[0] - paths[1] == {"objects/photos/day=1/19.jpg"}


def test_an_object_that_was_changed_behind_a_versions_back_is_refused(spec, bucket, branch, tmp_path):
    commit = version(spec, branch)
    put(bucket, "texts/note.txt", b"HELLO")
    with pytest.raises(DataError, match=r"note\.txt was changed after"):
        datasets.download(NAME, commit, tmp_path)


def test_a_prefix_without_objects_is_refused(spec, bucket):
    nothing = spec.model_copy(
        update={"objects": (spec.objects[0].model_copy(update={"source": f"s3://{bucket}/none/"}),)}
    )
    with pytest.raises(DataError, match="no objects below"):
        objects.listed(nothing)
