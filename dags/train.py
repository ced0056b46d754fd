"""Continuous training: one DAG for each problem in include/problems."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from adin.airflow import assets, slot
from adin.airflow.broken import broken
from adin.airflow.domain import Domain, domain
from adin.airflow.hooks import activate
from adin.airflow.params import check_conf, window_params
from adin.airflow.policies import DEFAULT_ARGS, deadline
from adin.errors import ConfigError, RefusedError, RunFailedError
from adin.problem import Problem, names, problem
from adin.window import Window
from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronDataIntervalTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from croniter import croniter

from operators.clickhouse import ClickHouseLoadOperator
from operators.kfp import KfpRunOperator
from operators.lakefs import BuildDatasetOperator


def schedule_of(spec: Problem, source: Domain) -> Any:
    """Return when the problem is trained: at a time, on new data, on drift, on any of these, or only by hand.

    Once a source has ended, time alone brings nothing new.

    :raises ConfigError: the cron time is none. :raises NotFoundError: there is no such feature domain.
    """
    if spec.run.cron and not croniter.is_valid(spec.run.cron):
        raise ConfigError(f"{spec.path / 'problem.yaml'}: run.cron: {spec.run.cron!r} is no cron time.")
    at_a_time = spec.run.cron and spec.run.owner == "airflow" and not source.end
    timetable = CronDataIntervalTimetable(spec.run.cron, timezone="UTC") if at_a_time else None
    data = [assets.features(domain(spec.run.on_data).name)] if spec.run.on_data else []
    data += [assets.drift(spec.name)] if spec.run.on_drift else []
    # any of them is enough; a plain list would wait for all
    either = AssetAny(*data) if len(data) > 1 else data or None
    if timetable and either:
        return AssetOrTimeSchedule(timetable=timetable, assets=either)
    return timetable or either


def make(spec: Problem, source: Domain) -> None:
    """Declare ``train__<problem>``."""

    @dag(
        dag_id=f"train__{spec.name}",
        schedule=schedule_of(spec, source),
        start_date=source.start,
        # no end_date: a run started by hand after it would never get its tasks started
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        deadline=deadline(f"train__{spec.name}"),
        tags=["train", spec.name],
        doc_md=DOC.format(name=spec.name, description=spec.description, metric=spec.promotion.primary),
        params={
            **window_params("all data up to the run's own time"),
            "force": Param(
                False,
                type="boolean",
                title="Train again",
                description_md="Even if nothing changed since the last time.",
            ),
            **slot.fields(spec),
        },
    )
    def train() -> None:
        @task(
            doc_md="Decides the window: all data up to the end of the run's own. Writes nothing. If it fails, it names "
            "the key of the form that is wrong."
        )
        def window() -> str:
            context = get_current_context()
            check_conf(context)
            found = source.history(context)
            return str(stretched(spec.name, found) if context.get("triggering_asset_events") else found)

        @task(
            doc_md="Skips the run when training is stopped, only a backfill made new data, or nothing changed. Writes "
            "nothing. If it fails, a registry or lakeFS does not answer: clear it when they do."
        )
        def gates(window: str) -> str:
            from adin.pipelines import modes

            context = get_current_context()
            activate()
            try:
                if backfilled(context):
                    raise RefusedError("Only a backfill made new features.", "The next daily run trains on them.")
                return modes.pipeline_for(spec.name, Window.from_text(window), force=context["params"]["force"])
            except RefusedError as reason:
                context["ti"].xcom_push("reason", str(reason))
                raise AirflowSkipException(str(reason)) from None

        @task(
            doc_md="Compares the registry's champion with the version that answers. Writes nothing. If it fails: "
            "`adin ct reconcile`.",
        )
        def check(run: str) -> dict[str, Any]:
            from adin.pipelines import modes

            activate("amversion", "s3", "kserve", "kfp")
            outcome = modes.outcome(spec.name, run)
            if not outcome["agree"]:
                raise RunFailedError(
                    f"{spec.name}: champion is {outcome['champion']}, under load is {outcome['served']}.",
                    f"Mend it with `adin ct reconcile {spec.name}`.",
                )
            return outcome

        @task(
            doc_md="Makes Kubeflow's two recurring runs follow problem.yaml and the mode. If it fails: clear it, or "
            "`adin ct reconcile`."
        )
        def recurring() -> dict[str, bool]:
            from adin.control import recurring as schedule

            activate("amversion", "s3", "kfp")
            return schedule.follow(spec.name)

        span = window()
        pipeline = gates(span)
        dataset = BuildDatasetOperator(
            task_id="dataset",
            problem=spec.name,
            window=span,
            outlets=[assets.dataset(spec.name)],
            doc_md="Point-in-time join in Spark; writes one lakeFS commit, the same for the same inputs. "
            "If it fails, it names the partition or server: clear it.",
        )
        commit = "{{ ti.xcom_pull('dataset')['commit'] }}"
        explore = ClickHouseLoadOperator(
            task_id="explore",
            problem=spec.name,
            commit=commit,
            doc_md="Writes the same rows to ClickHouse, counted, in one step. If it fails, nothing was written.",
        )
        slot.between(spec, span, pipeline, "wait_for_slot")  # the mode is read after the wait
        pipeline >> dataset >> explore
        if spec.run.owner == "kfp":
            explore >> recurring()
            return
        limit = spec.train.timeout + timedelta(minutes=30)
        run = KfpRunOperator(
            task_id="train",
            pipeline=pipeline,
            arguments={"problem": spec.name, "dataset": commit, **spec.train.limits},
            timeout=limit.total_seconds(),
            execution_timeout=limit + timedelta(minutes=10),  # the run's own limit comes first and cancels it
            doc_md="The KFP run: train, evaluate; writes a version, maybe promotes it. If it fails, it names the step.",
        )
        slot.between(spec, explore, run, "wait_for_slot_again")  # the hours may be over when the dataset is there
        check(run.output)

    train()


def backfilled(context: Any) -> bool:
    """Tell whether the run was set off by backfills of features and nothing else."""
    events = [event for group in (context.get("triggering_asset_events") or {}).values() for event in group]
    return bool(events) and all((event.extra or {}).get("run_type") == "backfill" for event in events)


def stretched(name: str, window: Window) -> Window:
    """Return the window up to the end of the latest dataset: new features of past days are no reason to forget."""
    from adin import datasets

    activate("lakefs")
    return Window(window.start, max([window.end, *(known.window.end for known in datasets.versions(name))]))


DOC = """
### What it does
{description}
Builds the training set of the window, freezes it as a lakeFS commit, copies it to ClickHouse, and submits the Kubeflow
pipeline that trains, evaluates against the champion ({metric}), registers, and promotes if the gate lets it.

### What it writes
Branch `{name}` of lakeFS, table `datasets.{name}` of ClickHouse, a version of model `{name}`; maybe the model that
is under load.

### When it fails
The failing task names the place and the remedy; clear it to go on: nothing is built, trained or promoted twice.
Skipped means: training is stopped, or nothing changed (`force` trains anyway).
"""

for each in names():
    try:
        found = problem(each)
        make(found, domain(found.domain))
    except Exception as fault:  # whatever is wrong with one, the DAGs of the others live on
        broken(f"train__{each}", str(fault))
