"""An example of each operator, started by hand; run one with ``adin airflow dags test example_lakefs_merge``."""

from __future__ import annotations

from typing import Any

from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from adin.problem import names
from airflow.sdk import BaseOperator, Param, dag, get_current_context, task

from operators.amversion import AmversionPromoteOperator, AmversionRollbackOperator
from operators.clickhouse import ClickHouseLoadOperator
from operators.feast import FeastApplyOperator, FeastMaterializeOperator
from operators.kfp import KfpRetryOperator, KfpRunOperator
from operators.kserve import InferenceServiceOperator, KserveDeployOperator
from operators.lakefs import BuildDatasetOperator, LakefsMergeOperator, LakefsRevertOperator, LakefsTagOperator
from operators.spark_hive import SparkHiveIngestOperator

DAY = "2013-12-30T00:00:00Z/2013-12-31T00:00:00Z"
YEAR = "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z"
PROBLEM = next(iter(names()), "none")
FIELDS = {
    "branch": "Branch of lakeFS that is changed.",
    "commit": "Dataset version: commit, branch or tag.",
    "dataset": "Dataset version: commit, or `newest`.",
    "domain": "Feature domain, a folder of feature_repo.",
    "model": "Model of AMVersion.",
    "namespace": "Namespace of Kubernetes.",
    "problem": "Problem, a folder of include/problems.",
    "reason": "Why; it stands in the log.",
    "ref": "What is taken: commit, branch or tag.",
    "run": "Id of a failed run of KFP.",
    "service": "Name of the InferenceService.",
    "source": "Branch whose commits are taken.",
    "storage": "Where the model's files lie.",
    "tag": "Name of the tag.",
    "target": "Where to: a branch of lakeFS; for a rollback `previous`, a version or a time.",
    "version": "Version: a number or an alias.",
    "view": "Feature view of the domain.",
    "window": "Days, UTC: start/end.",
}


def example(name: str, kind: type[BaseOperator], writes: str, form: dict[str, str], **arguments: Any) -> None:
    """Declare ``example_<name>``: one operator, whose arguments are templates over the form."""

    @dag(
        dag_id=f"example_{name}",
        schedule=None,
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        tags=["example"],
        params={
            key: Param(value, type="string", title=key.capitalize(), description_md=FIELDS[key])
            for key, value in form.items()
        },
        doc_md=f"### What it does\nShows `{kind.__name__}`; see docs/operators.md.\n\n### What it writes\n{writes}\n\n"
        "### When it fails\nThe message names the place and the remedy. Clear the task to go on.",
    )
    def made() -> None:
        @task(doc_md="Refuses unknown keys. Writes nothing. If it fails, start a run without them.")
        def check() -> None:
            check_conf(get_current_context())

        told = f"Shows `{kind.__name__}`. Writes: {writes} If it fails, its message says what to do: then clear it."
        check() >> kind(task_id=name, doc_md=told, **arguments)

    made()


example(
    "spark_hive_ingest",
    SparkHiveIngestOperator,
    "Staged partitions in HDFS, which nobody sees.",
    {"domain": "flights", "view": "origin_2h", "window": DAY},
    domain="{{ params.domain }}",
    view="{{ params.view }}",
    window="{{ params.window }}",
)
example(
    "feast_apply",
    FeastApplyOperator,
    "Feast's registry.",
    {"domain": "flights"},
    domain="{{ params.domain }}",
)
example(
    "feast_materialize",
    FeastMaterializeOperator,
    "Redis: what changed.",
    {"domain": "flights", "view": "origin_2h", "window": DAY},
    domain="{{ params.domain }}",
    view="{{ params.view }}",
    window="{{ params.window }}",
)
example(
    "build_dataset",
    BuildDatasetOperator,
    "One commit of lakeFS; none if there is one of the same inputs.",
    {"problem": PROBLEM, "window": YEAR},
    problem="{{ params.problem }}",
    window="{{ params.window }}",
)
example(
    "lakefs_merge",
    LakefsMergeOperator,
    "A merge commit; as the form stands, nothing.",
    {"source": PROBLEM, "target": PROBLEM},
    source="{{ params.source }}",
    target="{{ params.target }}",
)
example(
    "lakefs_tag",
    LakefsTagOperator,
    "A tag.",
    {"tag": "example", "ref": PROBLEM},
    tag="{{ params.tag }}",
    ref="{{ params.ref }}",
)
example(
    "lakefs_revert",
    LakefsRevertOperator,
    "Nothing: it is only planned.",
    {"branch": PROBLEM, "ref": PROBLEM},
    branch="{{ params.branch }}",
    ref="{{ params.ref }}",
    plan_only=True,
)
example(
    "clickhouse_load",
    ClickHouseLoadOperator,
    "A partition of the problem's table.",
    {"problem": PROBLEM, "commit": PROBLEM},
    problem="{{ params.problem }}",
    commit="{{ params.commit }}",
)
example(
    "kfp_run",
    KfpRunOperator,
    "Nothing: it is only planned.",
    {"problem": PROBLEM, "dataset": "newest"},
    pipeline="train_only",
    arguments={"problem": "{{ params.problem }}", "dataset": "{{ params.dataset }}"},
    experiment="experimental",
    plan_only=True,
)
example(
    "kfp_retry",
    KfpRetryOperator,
    "New attempts of a run's failed steps.",
    {"run": "id of a failed run"},
    run="{{ params.run }}",
)
example(
    "amversion_promote",
    AmversionPromoteOperator,
    "One entry of the model's log; as the form stands, nothing.",
    {"model": PROBLEM, "version": "champion", "reason": "an example"},
    model="{{ params.model }}",
    version="{{ params.version }}",
    reason="{{ params.reason }}",
)
example(
    "amversion_rollback",
    AmversionRollbackOperator,
    "Nothing: it is only planned.",
    {"model": PROBLEM, "target": "previous", "reason": "an example"},
    model="{{ params.model }}",
    target="{{ params.target }}",
    reason="{{ params.reason }}",
    plan_only=True,
)
example(
    "kserve_deploy",
    KserveDeployOperator,
    "Which version is under load, and `served` in the model's log; nothing if it is the champion.",
    {"model": PROBLEM},
    model="{{ params.model }}",
)
example(
    "inference_service",
    InferenceServiceOperator,
    "An InferenceService on Kubernetes.",
    {"service": "example", "storage": "s3://models/example/1/", "namespace": "default"},
    service="{{ params.service }}",
    namespace="{{ params.namespace }}",
    spec={
        "predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "{{ params.storage }}"}},
    },
)
