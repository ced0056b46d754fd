"""Airflow's REST API, as far as the demo, the tests and the benchmarks drive it from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from adin.errors import NotFoundError, RunFailedError, ServiceError
from adin.settings import settings

_ENDED = {"success", "failed"}


class AirflowApi:
    """A signed-in client.

    :param url: base address of the API server.
    :param user: user name; :param password: password.
    :raises ServiceError: the server does not answer or refuses the sign-in.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        timeout = httpx.Timeout(settings().read_timeout, connect=settings().connect_timeout)
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=httpx.HTTPTransport(retries=3))
        token = self._call("POST", "/auth/token", json={"username": user, "password": password})["access_token"]
        #: Header that signs a request of another client in.
        self.authorization = f"Bearer {token}"
        self._http.headers["Authorization"] = self.authorization

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            answer = self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise ServiceError(f"Airflow at {self.url} does not answer: {error}.", "See `adin stack status`.") from None
        if answer.status_code == 404:
            raise NotFoundError(f"Airflow: {method} {path}: {answer.text[:200]}")
        if answer.is_error:
            raise ServiceError(f"Airflow: {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one DAG run."""
        return dict(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, with states and times."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self._call("GET", path, params={"limit": 200})["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return what a task left for others."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._call("GET", path, params={"deserialize": True})["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int) -> str:
        """Return the log of one try of a task as text, exceptions by type and message."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        lines = self._call("GET", path, headers={"Accept": "application/json"})["content"]
        return "\n".join(_line(line) for line in lines)

    def wait_for_dag(self, dag_id: str, timeout: float = 120) -> None:
        """Wait until the DAG processor has read a DAG.

        :param timeout: seconds.
        :raises NotFoundError: it did not appear in time.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                self._call("GET", f"/api/v2/dags/{dag_id}")
                return
            except NotFoundError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def start(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run under a fixed id. One that failed goes on where it failed; any other is left alone."""
        self.wait_for_dag(dag_id)
        try:
            state = self.run(dag_id, run_id)["state"]
        except NotFoundError:
            self._create(dag_id, {"dag_run_id": run_id, "logical_date": None, "conf": conf})
            return
        if state == "failed":
            self.clear(dag_id, run_id)

    def _create(self, dag_id: str, body: dict[str, Any], timeout: float = 120) -> None:
        """Create a run; a form that does not offer a new folder yet is waited for until its DAG is read again."""
        end = time.monotonic() + timeout
        while True:
            try:
                self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
                return
            except ServiceError as error:
                if "is not one of" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(2)

    def newest(self, dag_id: str, timeout: float = 60) -> str:
        """Return the id of a DAG's newest run; wait for one that new data is about to start. One that failed goes on.

        :param timeout: seconds.
        :raises NotFoundError: there is none.
        """
        end = time.monotonic() + timeout
        query = {"order_by": "-run_after", "limit": 1}
        while not (found := self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query)["dag_runs"]):
            if time.monotonic() > end:
                raise NotFoundError(f"No run of {dag_id} has started.", "Start it in Airflow.")
            time.sleep(1)
        if found[0]["state"] == "failed":
            self.clear(dag_id, found[0]["dag_run_id"])
        return str(found[0]["dag_run_id"])

    def clear(self, dag_id: str, run_id: str, *, only_failed: bool = True) -> None:
        """Let the failed tasks of a run, or all, run again."""
        body = {"dag_run_id": run_id, "dry_run": False, "only_failed": only_failed, "reset_dag_runs": True}
        self._call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body)

    def wait(
        self, dag_id: str, run_id: str, *, timeout: float = 3600, progress: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Follow a run to its end.

        :param timeout: seconds.
        :param progress: called with one line whenever a task changes state.
        :raises RunFailedError: the run failed, or did not end in time; names the failed tasks.
        """
        end = time.monotonic() + timeout
        seen: dict[str, str] = {}
        while time.monotonic() < end:
            run = self.run(dag_id, run_id)
            for task in self.tasks(dag_id, run_id):
                name, state = _name(task), task["state"]
                if state in {"running", "success", "failed", "up_for_retry", "skipped"} and seen.get(name) != state:
                    seen[name] = state
                    took = f"  {task['duration']:.0f} s" if state == "success" and task["duration"] else ""
                    progress(f"{dag_id}  {name}: {state}{took}")
            if run["state"] in _ENDED:
                break
            time.sleep(1)
        else:
            raise RunFailedError(f"{dag_id} run {run_id} did not end within {timeout:.0f} s.")
        if run["state"] == "failed":
            failed = ", ".join(name for name, state in seen.items() if state == "failed")
            raise RunFailedError(
                f"{dag_id} run {run_id} failed in {failed}.", f"See its log at {self.url}/dags/{dag_id}."
            )
        return run


def _line(line: Any) -> str:
    if not isinstance(line, dict):
        return str(line)
    faults = (f"{fault['exc_type']}: {fault['exc_value']}" for fault in line.get("error_detail") or ())
    return "\n".join([str(line.get("event", line)), *faults])


def _name(task: dict[str, Any]) -> str:
    return task["task_id"] if task["map_index"] == -1 else f"{task['task_id']}[{task['map_index']}]"
