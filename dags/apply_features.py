"""Feature definitions into Feast's registry."""

from __future__ import annotations

import logging
from typing import Any

from adin.airflow.domain import names
from adin.airflow.hooks import activate
from adin.airflow.params import check_conf
from adin.airflow.policies import DEFAULT_ARGS
from airflow.sdk import Param, dag, get_current_context, task

from operators.feast import FeastApplyOperator

log = logging.getLogger(__name__)
domains = names()


@dag(
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=["features"],
    params={
        "domain": Param(
            next(iter(domains), None),
            type="string",
            enum=domains,
            title="Domain",
            description_md="Folder of feature_repo.",
        ),
        "approve": Param(
            False,
            type="boolean",
            title="Approve",
            description_md="Take away what the plan calls destructive: features removed, or changed in type or key.",
            section="What destroys",
        ),
        "delete": Param(
            False,
            type="boolean",
            title="Delete",
            description_md="Also remove what no domain has any more, with its values online. Needs approval as well.",
            section="What destroys",
        ),
    },
    doc_md="""
### What it does
Shows what would change in Feast's registry, then brings it to what `feature_repo/<domain>` says. What takes
features away needs approval; what a model under load or a problem needs is refused, approved or not.

### What it writes
The registry. Serving and training that run are not touched.

### When it fails
The message names the file and line of a definition, or the server. Clear the task to go on.
""",
)
def apply_features() -> None:
    """Declare the DAG."""

    @task(doc_md="Logs what apply would change. Writes nothing. If it fails, it names file and line of a definition.")
    def plan() -> dict[str, Any]:
        from adin.features import store

        context = get_current_context()
        check_conf(context)
        activate("feast", "spark", "s3", "amversion")
        found = store.plan(context["params"]["domain"], delete=context["params"]["delete"])
        log.info("%s", found)
        return dict(found.as_dict())

    plan() >> FeastApplyOperator(
        task_id="apply",
        domain="{{ params.domain }}",
        delete="{{ params.delete }}",
        approve="{{ params.approve }}",
        doc_md="Writes the definitions to the registry. If it fails, the registry is as before: clear it.",
    )


if domains:
    apply_features()
