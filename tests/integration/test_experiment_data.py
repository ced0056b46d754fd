"""Experiments have a branch of the data of their own; production does not see what lies there only."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from adin import datasets
from adin.datasets.lake import Lake
from adin.errors import ConfigError, NotFoundError

pytestmark = pytest.mark.flow(7, 18, 24)


@pytest.fixture
def name():
    """A problem with one version in production."""
    found = f"p_{uuid4().hex[:8]}"
    Lake().ensure_branch(found)
    commit(found, found)
    yield found
    for branch in (found, datasets.branch_of(found, "mine")):
        Lake().delete_branch(branch)


def commit(name: str, branch: str) -> str:
    """Put a version on a branch; its table plays no part here."""
    manifest = {"problem": name, "window": "2013-01-01/2013-02-01", "rows": {}, "files": [], "run_key": uuid4().hex}
    Lake().upload(branch, datasets.MANIFEST, json.dumps(manifest).encode())
    return Lake().commit(branch, "a version", {"adin_inputs": uuid4().hex, "adin_problem": name})


def test_a_version_on_a_branch_is_not_in_production_and_goes_with_its_branch(name):
    branch = datasets.branch_of(name, "mine")
    Lake().ensure_branch(branch, name)
    (production,) = datasets.versions(name)
    tried = commit(name, branch)
    assert [found.commit for found in datasets.versions(name, branch="mine")] == [tried, production.commit]
    assert datasets.newest(name, branch="mine").commit == tried
    assert datasets.newest(name).commit == production.commit
    assert datasets.in_production(name, production.commit) and not datasets.in_production(name, tried)
    assert name in Lake().branches() and branch not in Lake().branches()
    datasets.drop_branch(name, "mine")
    with pytest.raises(NotFoundError):
        datasets.newest(name, branch="mine")
    assert datasets.newest(name).commit == production.commit


@pytest.mark.parametrize("experiment", ["UPPER", "a_b", "a/b", "-x", "x" * 70])
def test_a_name_that_cannot_be_a_branchs_is_refused(experiment):
    with pytest.raises(ConfigError, match="cannot name an experiment"):
        datasets.branch_of("p", experiment)


def test_productions_branch_cannot_be_dropped(name):
    with pytest.raises(ConfigError, match="not dropped"):
        datasets.drop_branch(name, "")
    assert datasets.newest(name)
