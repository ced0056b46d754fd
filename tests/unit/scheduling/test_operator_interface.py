"""What every operator owes whoever uses it, and the InferenceService's life against an API that lives in this test."""

from __future__ import annotations

import copy
import importlib
import inspect
from types import SimpleNamespace

import pytest
from adin.airflow import assets
from adin.errors import ConfigError, NotFoundError, RunFailedError
from adin.serving import inference_service
from adin.serving.inference_service import FORMER, RUN_KEY, standing

from operators import external_run
from operators.external_run import ExternalRunOperator, KeyedOperator, WorkOperator, key_of
from operators.kserve import InferenceServiceOperator

MODULES = ("amversion", "clickhouse", "feast", "kfp", "kserve", "lakefs", "spark_hive")
SETTINGS = {"renew", "plan_only", "poll_interval", "timeout", "deferrable", "conn_id", "automatic"}


def operators():
    for name in MODULES:
        module = importlib.import_module(f"operators.{name}")
        for kind in vars(module).values():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and issubclass(kind, KeyedOperator) and not kind.__name__.startswith("_"):
                yield kind


@pytest.mark.parametrize("kind", operators(), ids=lambda kind: kind.__name__)
def test_an_operator_can_be_used_without_opening_its_source(kind):
    own = inspect.signature(kind.__init__).parameters
    asked = {name: each for name, each in own.items() if name not in ("self", "kwargs")}
    assert all(each.kind is each.KEYWORD_ONLY for each in asked.values())
    for name, each in asked.items():
        assert f":param {name}:" in kind.__doc__, name
        if each.default is not each.empty:
            text = kind.__doc__.partition(f":param {name}:")[2].partition("\n    :")[0]
            assert "Default" in text, name
    assert ":returns:" in kind.__doc__
    assert ":raises" in kind.__doc__
    assert set(asked) - SETTINGS <= set(kind.template_fields)
    assert "renew" in kind.template_fields
    assert kind.operator_extra_links or kind.__module__ in ("operators.feast", "operators.spark_hive")


def context(outlets=None):
    told = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, xcom_push=lambda **_: None)
    return {"ti": told, "outlet_events": outlets or {}, "dag_run": SimpleNamespace(clear_number=0)}


class Doing(WorkOperator):
    connections = ()

    def asked(self):
        return {"a": 1}

    def work(self, key, context):
        return {"key": key, "rows": 3}


def test_a_plan_does_nothing_and_says_what_would_be_done(monkeypatch):
    monkeypatch.setattr(Doing, "work", lambda *_: pytest.fail("it worked"))
    assert Doing(task_id="t", plan_only=True).execute(context()) == {"run_key": key_of(context(), {"a": 1}), "a": 1}


def test_a_cleared_task_does_new_work_only_where_it_says_so():
    assert "{{ dag_run.clear_number }}" in KeyedOperator.__doc__
    keys = [Doing(task_id="t", renew=renew).execute(context())["key"] for renew in ("", "", "0", "1")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_facts_of_the_work_stand_in_the_events_of_its_assets():
    asset = assets.dataset("shop")
    event = SimpleNamespace(extra={})
    Doing(task_id="t", outlets=[asset]).execute(context({asset: event}))
    assert event.extra["rows"] == 3


def test_lineage_is_silent_where_its_provider_is_not_installed():
    assert Doing(task_id="t").get_openlineage_facets_on_complete(None) is None


class Cluster:
    """InferenceServices by name, as a server keeps them; ``told`` is what their controller says."""

    def __init__(self):
        self.kept = {}
        self.told = {}

    def get(self, name):
        if name not in self.kept:
            raise NotFoundError(name)
        return copy.deepcopy(self.kept[name] | {"status": self.told})

    def apply(self, name, spec, annotations, *, rehearse=False):
        if "predictor" not in spec:
            raise ConfigError("422 spec.predictor: Required value")
        old = self.kept.get(name, {"spec": None, "metadata": {"generation": 0}})
        generation = old["metadata"]["generation"] + (old["spec"] != spec)
        new = {"metadata": {"annotations": dict(annotations), "generation": generation}, "spec": copy.deepcopy(spec)}
        if not rehearse:
            self.kept[name] = new
        return new

    def delete(self, name):
        del self.kept[name]


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()

    def services(self):
        made = object.__new__(inference_service.InferenceServices)
        made._objects = found
        return made

    monkeypatch.setattr(InferenceServiceOperator, "_services", services)
    monkeypatch.setattr(external_run, "_PATIENCE", 0.05)
    return found


def spec(version):
    return {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": f"s3://models/m/{version}"}}}


def ready(generation, status="True", **more):
    return {
        "observedGeneration": generation,
        "conditions": [{"type": "Ready", "status": status}],
        "url": "http://m.example",
        **more,
    }


def deploy(version=1, **more):
    return InferenceServiceOperator(task_id="t", service="m", spec=spec(version), poll_interval=0.01, **more)


def test_a_service_counts_as_ready_only_once_the_applied_generation_was_seen(cluster):
    cluster.told = ready(1)
    assert deploy(1).execute(context())["generation"] == 1
    with pytest.raises(RunFailedError, match="did not end within"):  # what is ready is the one before
        deploy(2, timeout=0.05).execute(context())
    cluster.told = ready(4)
    assert deploy(2).execute(context())["url"] == "http://m.example"


def test_a_service_that_was_applied_carries_the_run_key_and_is_applied_once(cluster):
    cluster.told = ready(1)
    first = deploy().execute(context())
    assert deploy().execute(context()) == first
    assert cluster.kept["m"]["metadata"]["annotations"][RUN_KEY] == deploy().key(context())
    assert cluster.kept["m"]["metadata"]["generation"] == 1


@pytest.mark.parametrize("before", [0, 1])
def test_a_service_that_is_given_up_is_put_back_as_it_was(cluster, before):
    if before:
        cluster.told = ready(1)
        deploy(1).execute(context())
    with pytest.raises(RunFailedError):
        deploy(2, timeout=0.03).execute(context())
    assert (cluster.kept["m"]["spec"] if before else cluster.kept) == (spec(1) if before else {})


def test_a_service_somebody_else_has_changed_since_is_left_alone(cluster):
    cluster.told = ready(1)
    deploy(1).execute(context())
    job = deploy(1).find(deploy(1).key(context()))
    cluster.kept["m"]["metadata"]["annotations"] = {RUN_KEY: "another", FORMER: ""}
    deploy(1).cancel(job)
    assert cluster.kept["m"]["spec"] == spec(1)
    assert deploy(1).state(job) == "Superseded"


@pytest.mark.parametrize("transition", ["InvalidSpec", "BlockedByFailedLoad"])
def test_a_model_that_cannot_be_loaded_fails_the_task_with_what_is_said_of_it(cluster, transition):
    told = {"transitionStatus": transition, "lastFailureInfo": {"message": "no such file"}}
    cluster.told = ready(1, "False", modelStatus=told)
    with pytest.raises(RunFailedError, match="no such file"):
        deploy().execute(context())


def test_the_plan_of_a_service_is_checked_by_the_server_and_changes_nothing(cluster):
    assert deploy(plan_only=True).execute(context())["stored"] == spec(1)
    assert cluster.kept == {}
    wrong = InferenceServiceOperator(task_id="t", service="m", spec={"x": 1}, plan_only=True)
    with pytest.raises(ConfigError, match="predictor"):
        wrong.execute(context())


def test_a_service_that_nobody_has_looked_at_is_not_ready():
    found = {"metadata": {"annotations": {RUN_KEY: "k"}, "generation": 1}, "spec": {}}
    assert standing(found, "k", 1) == "Unseen"
    assert issubclass(InferenceServiceOperator, ExternalRunOperator)
