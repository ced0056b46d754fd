"""Experimental runs train and register, and can never deploy; a tuned model says what it was tuned by."""

# No `from __future__ import annotations`: kfp reads the annotations themselves.

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import kfp
import numpy as np
import pandas as pd
import pytest
import yaml
from adin.connections import Connection
from adin.errors import RefusedError
from adin.models import EXPERIMENTAL, Registry, registry
from adin.pipelines import steps, training
from adin.pipelines.client import KfpClient
from adin.settings import settings
from kfp import compiler, dsl
from kfp_server import LocalKfp
from model_facts import files, register, validated
from servers import Servers

pytestmark = [pytest.mark.ml, pytest.mark.filterwarnings("ignore")]

PROBLEM = {
    "name": "slope",
    "task": "regression",
    "description": "y is 3 x.",
    "owner": "tests",
    "domain": "none",
    "features": "none",
    "label": {"table": "none.outcomes", "column": "y"},
    "event_time": "at",
    "train": {"params": {"factor": 1, "shift": 0}},
    "promotion": {"primary": "mae"},
    "tune": {
        "objective": {"type": "minimize", "metric": "mae"},
        "algorithm": "grid",
        "parameters": [{"name": "factor", "type": "discrete", "list": [1, 3, 4]}],
        "maxTrialCount": 3,
        "parallelTrialCount": 3,
        "deadline": "10min",
    },
    "example": {"at": "2013-01-01T00:00:00Z"},
}
CODE = """
class Line:
    def __init__(self, factor, shift):
        self.factor, self.shift = factor, shift

    def predict(self, frame):
        return frame["x"].to_numpy(float) * self.factor + self.shift


def fit(train, label, params):
    if params["factor"] == 4:
        raise ValueError("four is too much")
    return Line(**params)
"""


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def judged(verdict: dsl.Output[dsl.Artifact]) -> None:
    """A verdict for the new version, as the step ``evaluate`` leaves it."""
    import json
    from pathlib import Path

    Path(verdict.path).mkdir(parents=True)
    told = {"against": None, "reason": "better", "evidence": {"policy_hash": "hash"}, "outcome": "promoted"}
    (Path(verdict.path) / "evaluation.json").write_text(json.dumps(told))


@dsl.pipeline(name="promoting")
def promoting(problem: str, version: int) -> None:
    """The training pipelines' own promote step, of a bare pipeline."""
    training.promote(
        problem=problem,
        version=version,
        run_key="",
        kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        evaluation=judged().outputs["verdict"],
    )


@pytest.fixture(scope="module")
def kfp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKfp]:
    server = LocalKfp(tmp_path_factory.mktemp("kfp"))
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("problems")
        (home / "slope").mkdir()
        (home / "slope" / "problem.yaml").write_text(yaml.safe_dump(PROBLEM))
        (home / "slope" / "train.py").write_text(CODE)
        patch.setenv("ADIN_PROBLEMS", str(home))
        settings.cache_clear()
        yield server
        server.stop()
    settings.cache_clear()


@pytest.fixture
def models(kfp_server: LocalKfp, edition: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ADIN_CONN_AMVERSION", edition.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)
    return registry()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset version as the step ``load`` leaves it."""
    folder = tmp_path / "dataset"
    for split in ("train", "validate", "test"):
        target = folder / "data" / f"split={split}"
        target.mkdir(parents=True)
        at = pd.Timestamp("2013-11-01", tz="UTC") + pd.to_timedelta(np.arange(300) // 10, unit="D")
        rows = pd.DataFrame({"x": np.arange(300) / 100, "at": at}).assign(y=lambda found: 3 * found["x"])
        rows.to_parquet(target / "part-0.parquet")
    facts = {"commit": secrets.token_hex(20), "window": "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z", "sources": {}}
    facts |= {"service": "none", "registry": "made", "features": ["x"], "code_version": "test"}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.flow(16, 18)
def test_an_experimental_version_can_never_be_validated_promoted_or_rolled_back_to(
    models: Registry, model: str, tmp_path: Path
) -> None:
    good = validated(models, model, files(tmp_path / "good"), "production")
    models.promote(model, good, against=None, actor="test", reason="first")
    tried = register(models, model, files(tmp_path / "tried"), "experiment", tags=EXPERIMENTAL)
    with pytest.raises(RefusedError, match="experimental run"):
        models.append(model, "validate", version=tried, actor="test", reason="by hand")
    for event in ("challenge", "promote", "rollback"):
        with pytest.raises(RefusedError):
            models.append(model, event, version=tried, actor="test", reason="by hand")
    with pytest.raises(RefusedError):
        models.promote(model, tried, against=good, actor="test", reason="by hand")
    state = models.state(model)
    assert (state.champion, state.versions[tried]) == (good, "registered")


@pytest.mark.flow(16, 18, 23)
@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_a_tuned_model_records_its_parameters_and_where_they_came_from(
    models: Registry, data: Path, tmp_path: Path
) -> None:
    tuning, model, found = (tmp_path / name for name in ("tuning", "model", "evaluation"))
    steps.tune("slope", data, tuning)
    steps.train("slope", data, model, tuning)
    steps.evaluate("slope", data, model, found)
    number = steps.register("slope", data, model, found, secrets.token_hex(8), "run-of-tuning", experiment=True)
    kept = models.version("slope", number).manifest
    assert kept.parameters == {"factor": 3, "shift": 0}
    assert kept.tags == {"run": "experimental", "tuned_by": "run-of-tuning"}
    assert kept.metric("mae") == pytest.approx(0)
    evidence = json.loads(models.read("slope", number, "evidence/tuning.json"))
    assert sorted(each["parameters"]["factor"] for each in evidence["trials"]) == [1, 3, 4]
    failed = next(each for each in evidence["trials"] if each["state"] == "FAIL")
    assert failed["error"].endswith("four is too much")
    state = models.state("slope")
    assert (state.own["experimental"], state.versions[number]) == (number, "registered")


@pytest.mark.flow(18, 22)
@pytest.mark.parametrize("edition", ["database"], indirect=True)
def test_a_run_outside_productions_experiment_deploys_nothing_also_when_a_bare_client_started_it(
    models: Registry, kfp_server: LocalKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_CONN_KFP", kfp_server.conn.uri)
    monkeypatch.setenv("ADIN_CONN_KSERVE", Connection("kserve", "127.0.0.1", 9, password="x").uri)
    kfp_server.stop()
    kfp_server.start()  # its runs take the registry of this edition
    number = validated(models, "slope", files(tmp_path / "files"), secrets.token_hex(8))
    package = tmp_path / "promoting.yaml"
    compiler.Compiler().compile(promoting, str(package))
    arguments = {"problem": "slope", "version": number}
    bare = kfp.Client(host=kfp_server.conn.url, existing_token=kfp_server.token)
    runs = {
        experiment: bare.create_run_from_pipeline_package(
            str(package), arguments=arguments, experiment_name=experiment
        ).run_id
        for experiment in ("Default", "production")
    }
    client = KfpClient()
    assert client.wait(runs["Default"], 120, 0.3).state == "SUCCEEDED"
    headers = {"Authorization": f"Bearer {kfp_server.token}"}
    told = httpx.get(f"{kfp_server.conn.url}/apis/v2beta1/runs/{runs['Default']}", headers=headers).text
    assert "runs of the KFP experiment 'Default' deploy nothing" in told
    assert not [entry for entry in models.log("slope") if entry.event == "promote"]
    # the same step of a production run goes on to the model server, which is away here
    with pytest.raises(Exception, match="model server"):
        client.wait(runs["production"], 120, 0.3)
