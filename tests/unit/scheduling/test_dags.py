"""What every DAG owes its users, seen without a database."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta

import pytest
from adin.settings import ROOT, settings
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

HEAVY = (
    "pandas", "pyspark", "feast", "kfp", "kfp_server_api", "sklearn", "lakefs", "lakefs_sdk", "clickhouse_connect",
    "minio", "kubernetes", "pyarrow", "chdb",
)  # fmt: skip


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(dag_folder=ROOT / "dags")


def test_every_dag_file_is_read_without_an_error(bag):
    assert bag.import_errors == {}
    assert {
        "features__flights",
        "train__flights_delay",
        "rollback__flights_delay",
        "features__parking",
        "train__parking_occupancy",
        "drift__flights_delay",
        "drift__parking_occupancy",
        "rollback__parking_occupancy",
        "ct_control",
        "retention",
        "apply_features",
        "smoke_stack",
    } <= set(bag.dags)


def test_every_dag_says_what_it_does_writes_and_what_to_do_when_it_fails(bag):
    for dag in bag.dags.values():
        assert dag.tags, dag.dag_id
        for heading in ("### What it does", "### What it writes", "### When it fails"):
            assert heading in dag.doc_md, dag.dag_id


def test_every_task_is_documented_owned_retried_and_limited(bag):
    for dag in bag.dags.values():
        for task in dag.tasks:
            place = f"{dag.dag_id}.{task.task_id}"
            assert task.doc_md and "If it fails" in task.doc_md, place
            assert task.owner == "adin", place
            assert task.retries >= 2, place
            assert timedelta() < task.execution_timeout <= timedelta(hours=2), place


def test_every_form_field_has_a_title_a_type_and_a_description_and_every_number_its_range(bag):
    for dag in bag.dags.values():
        for name in dag.params:
            param, place = dag.params.get_param(name), f"{dag.dag_id}.{name}"
            kinds = param.schema["type"] if isinstance(param.schema["type"], list) else [param.schema["type"]]
            assert param.schema.get("title"), place
            assert param.schema.get("description_md") or param.description, place
            assert not {"integer", "number"} & set(kinds) or "minimum" in param.schema, place


def test_a_form_left_as_it_is_is_a_good_one_but_for_the_reason_that_goes_into_the_log(bag):
    for dag in bag.dags.values():
        for name in dag.params:
            if name != "reason":
                param = dag.params.get_param(name)
                assert param.resolve() == param.value, f"{dag.dag_id}.{name}"  # what does not fit its schema raises


def test_reading_the_dags_imports_nothing_heavy():
    code = (
        "import sys, time, airflow.sdk; from airflow.dag_processing.dagbag import DagBag\n"
        "import airflow.sdk.definitions.dag; began = time.process_time()\n"
        f"bag = DagBag(dag_folder={str(ROOT / 'dags')!r})\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
        "print(round(time.process_time() - began, 2))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    heavy, seconds = done.stdout.splitlines()[-2:]
    print(f"all DAG files in {seconds} s of processor time beyond `import airflow`; 1 s is the budget")
    assert heavy == "[]"


BROKEN = {
    "cooks": b"name: cooks\ntask: cooking\n",
    "no_yaml": b"a: [\n",
    "no_text": b"name: \xff\xfe\n",
    "numbers": b"1: 2\npath: x\n",
    "list": b"- a\n",
    "not a name!": b"name: x\n",
}


@pytest.mark.flow(22)
@pytest.mark.parametrize("file", ["train", "rollback", "drift"])
def test_a_broken_problem_does_not_break_the_dags_of_others(monkeypatch, tmp_path, file):
    (tmp_path / "flights_delay").symlink_to(ROOT / "include" / "problems" / "flights_delay")
    for name, content in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "problem.yaml").write_bytes(content)
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()
    try:
        bag = DagBag(dag_folder=ROOT / "dags" / f"{file}.py")
    finally:
        settings.cache_clear()
    assert bag.import_errors == {}
    assert "broken" not in bag.dags[f"{file}__flights_delay"].tags
    told = {name: dag.doc_md for name, dag in bag.dags.items() if "broken" in dag.tags}
    assert set(told) == {f"{file}__{name}" for name in BROKEN if name != "not a name!"} | {f"{file}__not_a_name_"}
    assert "line 2, task" in told[f"{file}__cooks"]


@pytest.mark.flow(22)
def test_a_broken_domain_does_not_break_the_dags_of_others(monkeypatch, tmp_path):
    (tmp_path / "flights").symlink_to(ROOT / "feature_repo" / "flights")
    for name, content in {"empty": "", "no_yaml": "a: [", "early": "arrives: {start: soon}\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw.yaml").write_text(content)
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path))
    settings.cache_clear()
    try:
        bag = DagBag(dag_folder=ROOT / "dags" / "features.py")
    finally:
        settings.cache_clear()
    assert bag.import_errors == {}
    assert {name for name, dag in bag.dags.items() if "broken" in dag.tags} == {
        "features__empty", "features__no_yaml", "features__early",
    }  # fmt: skip
    assert len(bag.dags["features__flights"].tasks) > 1


@pytest.mark.flow(18, 22)
def test_where_kubeflow_owns_the_schedule_the_dag_trains_nothing_itself(monkeypatch, tmp_path):
    shipped = (ROOT / "include" / "problems" / "flights_delay" / "problem.yaml").read_text()
    (tmp_path / "flights_delay").mkdir()
    owned = re.sub(r"^run: .*$", 'run: {cron: "0 4 * * *", owner: kfp}', shipped, flags=re.MULTILINE)
    assert owned != shipped
    (tmp_path / "flights_delay" / "problem.yaml").write_text(owned)
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path))
    settings.cache_clear()
    try:
        bag = DagBag(dag_folder=ROOT / "dags" / "train.py")
    finally:
        settings.cache_clear()
    found = bag.dags["train__flights_delay"]
    assert {task.task_id for task in found.tasks} == {"window", "gates", "dataset", "explore", "recurring"}
    assert found.schedule is None


@pytest.mark.flow(15)
def test_every_task_tells_its_end_and_reading_the_dags_again_makes_no_new_version_of_them(bag):
    again = DagBag(dag_folder=ROOT / "dags")
    for name, dag in bag.dags.items():
        for task in dag.tasks:
            assert [type(each).__name__ for each in task.on_failure_callback] == ["FailureNotifier"], name
            assert [type(each).__name__ for each in task.on_success_callback] == ["SuccessNotifier"], name
        assert DagSerialization.to_dict(dag) == DagSerialization.to_dict(again.dags[name]), name
    assert bag.dags["train__flights_delay"].deadline and bag.dags["features__flights"].deadline
