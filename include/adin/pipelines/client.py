"""Kubeflow Pipelines from anywhere: upload, submit once, follow, cancel. Works in both environments.

Only ``kfp-server-api`` is used: ``kfp.Client`` has no time limits, loses a wait to one 503 and waits for ever on a
cancelled run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from adin.connections import Connection, connection
from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError, RunFailedError, ServiceError
from adin.limits import Limits, guarded

#: Terminal states and whether they are good. Every other state, also one not known here, means: keep looking.
TERMINAL = {"SUCCEEDED": True, "FAILED": False, "SKIPPED": False, "CANCELED": False}


def _in_states(*states: str) -> str:
    """Return the filter of a listing of runs."""
    return json.dumps({"predicates": [{"operation": "IN", "key": "state", "stringValues": {"values": states}}]})


_GOING = _in_states("PENDING", "RUNNING", "PAUSED", "CANCELING")
_ENDED = _in_states(*TERMINAL)
#: Struct carries numbers as doubles.
_EXACT = 2**53
_AIRFLOW = "Airflow run "
#: Lines of the end of a step's log: with an error, and beside a whole run.
_LOG_LINES, _STEP_LINES = 30, 1000
#: Seconds between looks for a run whose creation got no answer.
_LOOK_AGAIN = (0.2, 1, 3)


@dataclass(frozen=True)
class Version:
    """A pipeline version."""

    pipeline_id: str
    version_id: str


@dataclass(frozen=True)
class Task:
    """A step of a run, as far as it has got."""

    task_id: str
    name: str
    state: str
    error: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    children: tuple[str, ...] = ()
    node: str = ""


@dataclass(frozen=True)
class Run:
    """A run, as far as it has got."""

    run_id: str
    name: str
    state: str
    error: str = ""
    created: datetime | None = None
    ended: datetime | None = None
    tasks: tuple[Task, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    recurring: str = ""
    started_by: str = ""

    @property
    def done(self) -> bool:
        """Return whether the run has ended, well or badly."""
        return self.state in TERMINAL

    @property
    def failed_step(self) -> Task | None:
        """Return the first step that failed by itself, not because a step inside it did."""
        failed = {task.task_id: task for task in self.tasks if task.state == "FAILED"}
        own = [task for task in failed.values() if not failed.keys() & set(task.children)]
        return min(own, key=lambda task: task.ended or datetime.max.replace(tzinfo=UTC), default=None)


class KfpClient:
    """One Kubeflow Pipelines, real or local.

    Reads are repeated on 429, 502, 503, 504 and lost connections; writes never are, unless nothing was sent.

    :param conn: where it is. Default: connection ``kfp``. ``extra`` may hold ``namespace``, ``token_file`` (read anew
        for each request) and ``ca_file``.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        import kfp_server_api as api

        self._conn = conn or connection("kfp")
        self._limits = Limits.of(self._conn)
        config = api.Configuration()
        config.host = self._conn.url
        config.ssl_ca_cert = self._conn.extra.get("ca_file")
        if self._conn.password or self._conn.extra.get("token_file"):  # a Kubeflow of one user asks for none
            config.api_key = {"authorization": self._conn.password}
        config.api_key_prefix = {"authorization": "Bearer"}
        config.refresh_api_key_hook = self._refresh
        config.retries = self._limits.repeats()
        config.connection_pool_maxsize = self._limits.pool
        self._client = api.ApiClient(config)
        self._pipelines = api.PipelineServiceApi(self._client)
        self._uploads = api.PipelineUploadServiceApi(self._client)
        self._experiments = api.ExperimentServiceApi(self._client)
        self._runs = api.RunServiceApi(self._client)
        self._recurring = api.RecurringRunServiceApi(self._client)
        self._api = api

    def upload(self, name: str, yaml_path: str | Path) -> Version:
        """Upload a compiled pipeline unless the same content is there already.

        The version is named by the content's hash, so that equal files are one version.

        :param name: the pipeline; made if need be.
        :param yaml_path: compiled IR.
        :raises ConfigError: the file is missing or not a compiled pipeline.
        """
        path = Path(yaml_path)
        if not path.is_file():
            raise ConfigError(f"No compiled pipeline at {path}.", "Compile the pipelines.")
        label = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        pipeline = self._pipeline(name) or self._create_pipeline(name)
        found = self._version(pipeline, label)
        if found:
            return found
        try:
            made = self._call(self._uploads.upload_pipeline_version, str(path), name=label, pipelineid=pipeline)
        except (ConflictError, ServiceError):
            found = self._version(pipeline, label)
            if not found:
                raise
            return found
        return Version(pipeline, made.pipeline_version_id)

    def submit(
        self,
        pipeline: str | Path,
        arguments: Mapping[str, Any] | None = None,
        *,
        name: str,
        experiment: str = "Default",
    ) -> str:
        """Start a run, or find the one that bears this name already, and return its id.

        A run of this name that goes or has succeeded is taken; after one that ended badly a new one is started.

        :param pipeline: name of an uploaded pipeline (its newest version is run), or path of a compiled ``.yaml``.
        :param name: the run key, the same at each try of the same piece of work.
        :param experiment: made if need be.
        :raises ConfigError: an argument is unknown or of a wrong type.
        :raises NotFoundError: there is no such pipeline.
        """
        home = self._experiment(experiment)
        earlier = self.find(name, experiment_id=home)
        if earlier and TERMINAL.get(earlier.state, True):
            return earlier.run_id
        version = self._resolve(pipeline)
        body = self._api.V2beta1Run(
            display_name=name,
            description=_started_by(),
            experiment_id=home,
            pipeline_version_reference=self._api.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=self._api.V2beta1RuntimeConfig(
                parameters={key: _portable(key, value) for key, value in (arguments or {}).items()}
            ),
        )
        try:
            return str(self._call(self._runs.run_service_create_run, body).run_id)
        except ServiceError:
            return self._adopt(name, home, earlier)

    def find(self, name: str, *, experiment_id: str = "") -> Run | None:
        """Return the newest run of this name, None if there is none."""
        given = {"experiment_id": experiment_id} if experiment_id else self._namespace()
        page = self._call(
            self._runs.run_service_list_runs,
            filter=_named(name),
            sort_by="created_at desc",
            page_size=1,
            **given,
        )
        return _run(page.runs[0]) if page.runs else None

    def unended(self, experiment: str = "") -> list[Run]:
        """Return the runs that go, or wait to, newest first.

        :param experiment: only those of the experiment of this name. Default those of all.
        """
        if not experiment:
            return self._all(_GOING)
        home = self._experiment_id(experiment)
        return self._all(_GOING, experiment_id=home) if home else []

    def ended(self, before: datetime) -> list[Run]:
        """Return the runs that had ended at a time, newest first."""
        return [run for run in self._all(_ENDED) if run.ended and run.ended < before]

    def delete(self, run_id: str) -> None:
        """Delete the record of a run, and of local KFP its files; no error if it is gone."""
        try:
            self._call(self._runs.run_service_delete_run, run_id)
        except NotFoundError:
            return

    def recurring(self) -> list[Any]:
        """Return the recurring runs there are, as the API gives them."""
        found: list[Any] = []
        token = ""
        while True:
            page = self._call(
                self._recurring.recurring_run_service_list_recurring_runs,
                page_size=100,
                page_token=token,
                **self._namespace(),
            )
            found += page.recurring_runs or []
            token = page.next_page_token or ""
            if not token:
                return found

    def recur(
        self,
        pipeline: str | Path,
        arguments: Mapping[str, Any],
        *,
        name: str,
        cron: str,
        on: bool,
        experiment: str = "production",
    ) -> str:
        """Create a recurring run and return its id: one run at a time, none caught up.

        :param arguments: may hold KFP's macros, such as ``[[RunUUID]]``.
        :param cron: five fields, UTC.
        :param on: whether it is enabled from the start.
        """
        version = self._resolve(pipeline)
        body = self._api.V2beta1RecurringRun(
            display_name=name,
            experiment_id=self._experiment(experiment),
            pipeline_version_reference=self._api.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=self._api.V2beta1RuntimeConfig(parameters=dict(arguments)),
            trigger=self._api.V2beta1Trigger(cron_schedule=self._api.V2beta1CronSchedule(cron=f"0 {cron}")),
            mode="ENABLE" if on else "DISABLE",
            max_concurrency="1",
            no_catchup=True,
        )
        made = self._call(self._recurring.recurring_run_service_create_recurring_run, body)
        return str(made.recurring_run_id)

    def switch(self, recurring: str, *, on: bool) -> None:
        """Enable or disable a recurring run; twice is as good as once."""
        service = self._recurring
        if on:
            self._call(service.recurring_run_service_enable_recurring_run, recurring)
        else:
            self._call(service.recurring_run_service_disable_recurring_run, recurring)

    def drop_recurring(self, recurring: str) -> None:
        """Delete a recurring run; no error if it is gone."""
        try:
            self._call(self._recurring.recurring_run_service_delete_recurring_run, recurring)
        except NotFoundError:
            return

    def _all(self, states: str, **given: str) -> list[Run]:
        found: list[Run] = []
        token = ""
        given = given or self._namespace()
        while True:
            page = self._call(
                self._runs.run_service_list_runs,
                filter=states,
                sort_by="created_at desc",
                page_size=100,
                page_token=token,
                **given,
            )
            found += map(_run, page.runs or [])
            token = page.next_page_token or ""
            if not token:
                return found

    def get(self, run_id: str) -> Run:
        """Return a run with its steps.

        :raises NotFoundError: there is no such run.
        """
        return _run(self._call(self._runs.run_service_get_run, run_id))

    def experiment_of(self, run_id: str) -> str:
        """Return the name of the experiment a run belongs to; :raises NotFoundError: there is no such run."""
        found = self._call(self._runs.run_service_get_run, run_id)
        home = self._call(self._experiments.experiment_service_get_experiment, found.experiment_id)
        return str(home.display_name)

    def experiments(self) -> int:
        """Return how many experiments there are: the shortest question of which the answer shows that all is well."""
        listed = self._experiments.experiment_service_list_experiments
        return int(self._call(listed, page_size=1, **self._namespace()).total_size or 0)

    def state(self, run_id: str) -> str:
        """Return the state of a run."""
        return self.get(run_id).state

    def wait(
        self,
        run_id: str,
        timeout: float = 3600,
        poll: float = 2,
        on_progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Follow a run to its end and return it.

        The server may be away for a while: only the deadline ends the wait. A run that goes on past it is left alone.

        :param timeout: seconds. Default 3600.
        :param poll: seconds between looks. Default 2.
        :param on_progress: called with the run whenever a state has changed.
        :raises RunFailedError: the run ended badly, or did not end in time.
        """
        deadline = time.monotonic() + timeout
        seen: object = None
        lost: ServiceError | None = None
        while True:
            try:
                run, lost = self.get(run_id), None
            except ServiceError as error:
                lost = error
            else:
                states = run.state, [(task.task_id, task.state) for task in run.tasks]
                if on_progress and states != seen:
                    on_progress(run)
                seen = states
                if run.done:
                    return self.check(run)
            if time.monotonic() + poll > deadline:
                raise lost or RunFailedError(
                    f"Run {run_id} is still {run.state} after {timeout:g} seconds.", "Terminate it, or wait longer."
                )
            time.sleep(poll)

    def check(self, run: Run) -> Run:
        """Return a run that succeeded.

        :raises RunFailedError: it did not; the error carries the first failing step and the end of its log.
        """
        if TERMINAL.get(run.state):
            return run
        step = run.failed_step
        if step is None:
            raise RunFailedError(f"Run {run.name} ({run.run_id}) ended {run.state}. {run.error}".strip())
        reason = step.error if step.error and step.error in run.error else f"{step.error} {run.error}".strip()
        log = self._log_tail(run.run_id, step)
        raise RunFailedError(
            f"Run {run.name} ({run.run_id}) ended {run.state}: step {step.name} failed: {reason}",
            f"The end of its log:\n{log}" if log else "",
            step=step.name,
            log=log,
        )

    def terminate(self, run_id: str) -> None:
        """Cancel a run. One that has ended already stays as it is."""
        try:
            self._call(self._runs.run_service_terminate_run, run_id)
        except (ConflictError, ConfigError):
            if not self.get(run_id).done:
                raise

    def retry(self, run_id: str) -> None:
        """Run the failed steps of a failed run again, under the same run id.

        :raises ConflictError: it has not failed.
        """
        self._call(self._runs.run_service_retry_run, run_id)

    def logs(self, run_id: str) -> Iterator[tuple[str, list[str]]]:
        """Yield the steps that have a log, in the order they started, and the last lines of each."""
        started = [task for task in self.get(run_id).tasks if task.started and not task.children]
        for task in sorted(started, key=lambda one: one.started or datetime.max.replace(tzinfo=UTC)):
            if text := self._log_tail(run_id, task, _STEP_LINES):
                yield task.name, text.splitlines()

    def log(self, run_id: str, task: str) -> str:
        """Return the log of a step.

        :param task: task id or display name; of several with one name the first that failed, else the first.
        :raises NotFoundError: there is no such step, or its log is gone.
        """
        tasks = [one for one in self.get(run_id).tasks if task in (one.task_id, one.name)]
        if not tasks:
            raise NotFoundError(f"Run {run_id} has no step {task}.")
        return self._log(run_id, min(tasks, key=lambda one: one.state != "FAILED"))

    # -- behind ---------------------------------------------------------------------------------------------------

    def _adopt(self, name: str, experiment_id: str, earlier: Run | None) -> str:
        # the request may have arrived although its answer did not
        for pause in _LOOK_AGAIN:
            time.sleep(pause)
            run = self.find(name, experiment_id=experiment_id)
            if run and (earlier is None or run.run_id != earlier.run_id):
                return run.run_id
        raise ServiceError(
            f"Kubeflow Pipelines at {self._conn.url} did not answer when run {name} was created, and shows none.",
            "Submit again; a run that turns up late will be found.",
        )

    def _resolve(self, pipeline: str | Path) -> Version:
        if isinstance(pipeline, Path) or pipeline.endswith((".yaml", ".yml")):
            return self.upload(_compiled_name(Path(pipeline)), pipeline)
        found = self._pipeline(pipeline)
        versions = (
            self._call(
                self._pipelines.pipeline_service_list_pipeline_versions,
                found,
                sort_by="created_at desc",
                page_size=1,
            ).pipeline_versions
            if found
            else None
        )
        if not found or not versions:
            raise NotFoundError(f"No pipeline {pipeline} at {self._conn.url}.", "Upload it first.")
        return Version(found, versions[0].pipeline_version_id)

    def _pipeline(self, name: str) -> str | None:
        page = self._call(
            self._pipelines.pipeline_service_list_pipelines, filter=_named(name), page_size=1, **self._namespace()
        )
        return str(page.pipelines[0].pipeline_id) if page.pipelines else None

    def _create_pipeline(self, name: str) -> str:
        body = self._api.V2beta1Pipeline(name=name, display_name=name, **self._namespace())
        try:
            return str(self._call(self._pipelines.pipeline_service_create_pipeline, body).pipeline_id)
        except (ConflictError, ServiceError):
            found = self._pipeline(name)
            if not found:
                raise
            return found

    def _version(self, pipeline: str, label: str) -> Version | None:
        page = self._call(
            self._pipelines.pipeline_service_list_pipeline_versions, pipeline, filter=_named(label), page_size=1
        )
        return Version(pipeline, page.pipeline_versions[0].pipeline_version_id) if page.pipeline_versions else None

    def _experiment(self, name: str) -> str:
        if found := self._experiment_id(name):
            return found
        body = self._api.V2beta1Experiment(display_name=name, **self._namespace())
        try:
            return str(self._call(self._experiments.experiment_service_create_experiment, body).experiment_id)
        except (ConflictError, ServiceError):
            if found := self._experiment_id(name):
                return found
            raise

    def _experiment_id(self, name: str) -> str | None:
        listed = self._experiments.experiment_service_list_experiments
        page = self._call(listed, filter=_named(name), page_size=1, **self._namespace())
        return str(page.experiments[0].experiment_id) if page.experiments else None

    def _log(self, run_id: str, task: Task) -> str:
        # the generated client lacks this route; it stands in v1alpha1 only
        response = self._call(
            self._client.call_api,
            "/apis/v1alpha1/runs/{run_id}/nodes/{node}/log",
            "GET",
            path_params={"run_id": run_id, "node": task.node or task.task_id},
            header_params={"Accept": "*/*"},
            auth_settings=["Bearer"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        return str(response.data.decode(errors="replace"))

    def _log_tail(self, run_id: str, task: Task, lines: int = _LOG_LINES) -> str:
        try:
            return "\n".join(self._log(run_id, task).splitlines()[-lines:])
        except AdinError:
            return ""

    def _namespace(self) -> dict[str, str]:
        namespace = self._conn.extra.get("namespace")
        return {"namespace": namespace} if namespace else {}

    def _refresh(self, config: Any) -> None:
        path = self._conn.extra.get("token_file")
        if path:
            config.api_key["authorization"] = Path(path).read_text().strip()

    def _call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        from urllib3.exceptions import HTTPError

        with guarded(self._conn):
            try:
                return function(*given, **named, _request_timeout=self._limits.timeouts)
            except self._api.ApiException as error:
                raise _translated(error, self._conn.url) from error
            except (HTTPError, OSError) as error:
                raise ServiceError(
                    f"Kubeflow Pipelines at {self._conn.url} does not answer: {error}.", "Is it running?"
                ) from error


def _translated(error: Any, url: str) -> AdinError:
    try:
        message = json.loads(error.body).get("message") or error.reason
    except (TypeError, ValueError, AttributeError):
        message = error.reason
    text = f"Kubeflow Pipelines at {url}: {message}"
    if error.status in (401, 403):
        return ConfigError(text, "Check the token of connection kfp.")
    kinds: dict[int, type[AdinError]] = {400: ConfigError, 404: NotFoundError, 409: ConflictError}
    return kinds.get(error.status, ServiceError)(text)


def _started_by() -> str | None:
    """Return who starts a run, in a task of Airflow its run: the description of the run of Kubeflow joins the two."""
    dag_run = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")  # Airflow sets it for each task
    return f"{_AIRFLOW}{dag_run}" if dag_run else None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _compiled_name(path: Path) -> str:
    import yaml

    try:
        return str(next(yaml.safe_load_all(path.read_text()))["pipelineInfo"]["name"])
    except (OSError, yaml.YAMLError, StopIteration, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a compiled pipeline.", "Compile the pipelines.") from error


def _portable(key: str, value: Any) -> Any:
    """Return an argument as JSON carries it; what it could not carry whole is refused."""
    if hasattr(value, "item") and not isinstance(value, bool | int | float | str):
        value = value.item()  # a numpy scalar
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, Mapping):
        return {str(name): _portable(key, one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_portable(key, one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ConfigError(f"Argument {key}: {value} is too large for a JSON number.", "Pass it as text.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"Argument {key} is {value}, which JSON cannot carry.", "Pass a finite number.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"Argument {key} is a {type(value).__name__}.", "Pass text, numbers, bools, lists or dicts.")


def _run(found: Any) -> Run:
    tasks = (found.run_details.task_details if found.run_details else None) or []
    return Run(
        run_id=found.run_id,
        name=found.display_name or "",
        state=found.state or "",
        error=_message(found),
        created=found.created_at,
        ended=found.finished_at,
        tasks=tuple(_task(task) for task in tasks),
        parameters=(found.runtime_config.parameters if found.runtime_config else None) or {},
        recurring=found.recurring_run_id or "",
        started_by=found.description if (found.description or "").startswith(_AIRFLOW) else "",
    )


def _task(found: Any) -> Task:
    return Task(
        task_id=found.task_id,
        name=found.display_name or "",
        state=found.state or "",
        error=_message(found),
        started=found.start_time,
        ended=found.end_time,
        children=tuple(child.task_id for child in found.child_tasks or [] if child.task_id),
        node=found.pod_name or "",
    )


def _message(found: Any) -> str:
    return (found.error.message or "") if found.error else ""
