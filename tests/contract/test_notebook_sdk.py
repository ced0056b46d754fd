"""What a notebook asks of a model: versions found, set beside each other, and never changed."""

from __future__ import annotations

from pathlib import Path

import adin
import pytest
from adin.connections import Connection
from adin.errors import ConfigError, NotFoundError
from adin.models import EXPERIMENTAL, registry
from model_facts import facts, files
from servers import Servers

pytestmark = [pytest.mark.ml, pytest.mark.flow(16, 18, 25)]


@pytest.fixture
def name(edition: Connection, servers: Servers, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A model with a champion and an experiment."""
    monkeypatch.setenv("ADIN_CONN_AMVERSION", edition.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    models, artefacts = registry(), files(tmp_path)
    better = facts(dataset="c2" * 20, parameters={"max_iter": 300}, metrics={"test": {"all": {"auc": 0.75}}})
    models.register(model, facts(), artefacts, actor="kfp", run_key="one")
    models.register(model, better | {"tags": EXPERIMENTAL}, artefacts, actor="kfp", run_key="two")
    models.append(model, "validate", version=1, actor="kfp", reason="checks passed")
    models.promote(model, 1, against=None, actor="kfp", reason="first of all")
    models.append(model, "alias", version=2, alias="experimental", actor="kfp", reason="an experiment")
    return model


@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_versions_are_found_by_metrics_and_data_and_set_beside_each_other(name: str) -> None:
    model = adin.model(name)
    assert (model.champion.number, model.version("experimental").number) == (1, 2)
    table = model.versions().table()
    assert list(table.index) == [1, 2] and list(table["experimental"]) == [False, True]
    assert list(table["auc"]) == [0.72, 0.75]
    assert [each.number for each in model.search("auc >= 0.74 and dataset = 'c2c2'").versions] == [2]
    assert len(model.search("auc <= 0.7")) == 0
    beside = model.versions().compare()
    assert list(beside.columns) == [1, 2]
    assert list(beside.loc[[("parameters", "max_iter")]].iloc[0]) == [200, 300]
    assert list(beside.loc[[("test", "auc")]].iloc[0]) == [0.72, 0.75]


@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_a_question_that_cannot_be_read_says_how_to_write_it(name: str) -> None:
    for asked in ("auc", "auc = 0.7", "dataset >= 'a'", "auc >= good", "drop table"):
        with pytest.raises(ConfigError):
            adin.model(name).search(asked)
    with pytest.raises(NotFoundError, match="has no champion"):
        _ = adin.model("nobody").champion
