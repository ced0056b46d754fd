"""Local KFP, driven by the stock kfp client and by the project's own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import kfp
import kfp_pipelines
import kfp_server_api
import pytest
from adin.errors import ConfigError, NotFoundError, RunFailedError, ServiceError
from adin.pipelines.client import KfpClient
from adin.stack.kfp.attempt import processes
from fault_proxy import FaultProxy
from kfp import compiler
from kfp_server import LocalKfp
from waiting import until

pytestmark = [pytest.mark.ml, pytest.mark.filterwarnings("ignore")]

#: The request that starts a run.
CREATE = r"^POST /apis/v2beta1/runs\s"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    names = (
        "gated",
        "slow",
        "quick",
        "patient",
        "nan",
        "defaults",
        "greedy",
        "typed",
        "looped",
        "tidy",
        "limited",
        "asked",
        "side_by_side",
        "side_by_side_in_a_branch",
        "one_fails",
    )
    for name in names:
        compiler.Compiler().compile(getattr(kfp_pipelines, name), str(folder / f"{name}.yaml"))
    return {name: folder / f"{name}.yaml" for name in names}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKfp]:
    server = LocalKfp(tmp_path_factory.mktemp("kfp")).start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LocalKfp]:
    server = LocalKfp(tmp_path / "own").start()
    yield server
    server.stop()


@pytest.fixture
def client(server: LocalKfp) -> KfpClient:
    return KfpClient(server.conn)


@pytest.fixture
def stock(server: LocalKfp) -> kfp.Client:
    return stock_client(server)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def stock_client(server: LocalKfp) -> kfp.Client:
    return kfp.Client(host=server.conn.url, existing_token=server.token)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# -- the stock client -----------------------------------------------------------------------------------------------


@pytest.mark.flow(22)
@pytest.mark.parametrize(("score", "branch"), [(0.9, "deploy"), (0.1, "hold")])
def test_the_stock_client_uploads_runs_and_waits_and_exactly_one_branch_leaves_its_mark(
    stock: kfp.Client, compiled: dict[str, Path], marks: Path, score: float, branch: str
) -> None:
    pipeline = stock.upload_pipeline(str(compiled["gated"]), pipeline_name=f"gated-{branch}")
    version = stock.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions[0]
    experiment = stock.create_experiment("tests")
    started = stock.run_pipeline(
        experiment.experiment_id,
        f"gated {branch}",
        pipeline_id=pipeline.pipeline_id,
        version_id=version.pipeline_version_id,
        params={"score": score, "path": str(marks)},
    )
    run = stock.wait_for_run_completion(started.run_id, timeout=120, sleep_duration=1)

    assert run.state == "SUCCEEDED"
    assert lines(marks) == [branch]
    assert [entry.state for entry in run.state_history] == ["PENDING", "RUNNING", "SUCCEEDED"]
    states = {task.task_id.rpartition("/")[2]: task.state for task in run.run_details.task_details}
    assert states["passes"] == "SUCCEEDED"
    assert sorted([states["condition-2"], states["condition-3"]]) == ["SKIPPED", "SUCCEEDED"]


@pytest.mark.flow(22)
def test_the_stock_client_runs_a_pipeline_from_its_file(
    stock: kfp.Client, compiled: dict[str, Path], marks: Path
) -> None:
    result = stock.create_run_from_pipeline_package(
        str(compiled["quick"]), arguments={"path": str(marks), "text": "it's"}, experiment_name="tests"
    )
    run = result.wait_for_run_completion(timeout=120)
    assert run.state == "SUCCEEDED"
    assert lines(marks) == ["it's"]


@pytest.mark.flow(22)
def test_a_terminated_run_is_canceled_and_none_of_its_processes_goes_on(
    stock: kfp.Client, compiled: dict[str, Path], marks: Path
) -> None:
    run_id = stock.create_run_from_pipeline_package(str(compiled["slow"]), arguments={"path": str(marks)}).run_id
    until(lambda: lines(marks) == ["began"])
    assert len(processes(run_id)) >= 3

    stock.terminate_run(run_id)
    assert stock.get_run(run_id).state in ("CANCELING", "CANCELED")
    until(lambda: stock.get_run(run_id).state == "CANCELED", seconds=60)

    assert processes(run_id) == []
    assert lines(marks) == ["began"]
    (task,) = stock.get_run(run_id).run_details.task_details
    assert task.state == "CANCELED"


@pytest.mark.flow(22)
def test_a_recurring_run_fires_by_interval_until_it_is_disabled(
    stock: kfp.Client, compiled: dict[str, Path], marks: Path
) -> None:
    experiment = stock.create_experiment("recurring")
    recurring = stock.create_recurring_run(
        experiment.experiment_id,
        "every second",
        interval_second=1,
        no_catchup=True,
        pipeline_package_path=str(compiled["quick"]),
        params={"path": str(marks)},
    )
    assert recurring.status == "ENABLED"
    assert recurring.max_concurrency == "1"
    until(lambda: len(lines(marks)) >= 2)

    stock.disable_recurring_run(recurring.recurring_run_id)
    assert stock.get_recurring_run(recurring.recurring_run_id).status == "DISABLED"

    def runs() -> list[kfp_server_api.V2beta1Run]:
        return stock.list_runs(experiment_id=experiment.experiment_id, page_size=100).runs

    until(lambda: all(run.state == "SUCCEEDED" for run in runs()))
    fired = len(runs())
    time.sleep(3)
    assert len(runs()) == fired == len(lines(marks))
    assert all(run.recurring_run_id == recurring.recurring_run_id for run in runs())
    spans = sorted((run.created_at, run.finished_at) for run in runs())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), "two went at a time"

    stock.enable_recurring_run(recurring.recurring_run_id)
    until(lambda: len(runs()) > fired, seconds=60)
    stock.disable_recurring_run(recurring.recurring_run_id)
    stock.delete_recurring_run(recurring.recurring_run_id)
    with pytest.raises(kfp_server_api.ApiException) as error:
        stock.get_recurring_run(recurring.recurring_run_id)
    assert error.value.status == 404


@pytest.mark.flow(22)
def test_a_recurring_run_fires_by_a_cron_of_six_fields(
    stock: kfp.Client, compiled: dict[str, Path], marks: Path
) -> None:
    experiment = stock.create_experiment("cron")
    recurring = stock.create_recurring_run(
        experiment.experiment_id,
        "cron",
        cron_expression="*/2 * * * * *",
        pipeline_package_path=str(compiled["quick"]),
        params={"path": str(marks), "text": "[[ScheduledTime]]"},
    )
    until(lambda: lines(marks))
    stock.disable_recurring_run(recurring.recurring_run_id)
    moment = datetime.strptime(lines(marks)[0], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    assert moment.second % 2 == 0
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


@pytest.mark.flow(22)
def test_pipelines_versions_and_experiments_are_kept_by_name_and_listed_in_pages(
    stock: kfp.Client, compiled: dict[str, Path]
) -> None:
    pipeline = stock.upload_pipeline(str(compiled["quick"]), pipeline_name="paged")
    for number in range(4):
        stock.upload_pipeline_version(str(compiled["quick"]), f"v{number}", pipeline_name="paged")
    names, token = [], ""
    while True:
        page = stock.list_pipeline_versions(
            pipeline.pipeline_id, page_size=2, page_token=token, sort_by="created_at desc"
        )
        names += [version.display_name for version in page.pipeline_versions]
        assert page.total_size == 5
        token = page.next_page_token
        if not token:
            break
    assert names == ["v3", "v2", "v1", "v0", "paged"]

    assert stock.get_pipeline_id("paged") == pipeline.pipeline_id
    assert stock.pipelines.pipeline_service_get_pipeline_by_name("paged").pipeline_id == pipeline.pipeline_id
    with pytest.raises(kfp_server_api.ApiException) as error:
        stock.upload_pipeline(str(compiled["quick"]), pipeline_name="paged")
    assert error.value.status == 409
    with pytest.raises(kfp_server_api.ApiException) as error:
        stock.delete_pipeline(pipeline.pipeline_id)
    assert error.value.status == 409
    stock.pipelines.pipeline_service_delete_pipeline(pipeline.pipeline_id, cascade=True)
    assert stock.get_pipeline_id("paged") is None

    experiment = stock.create_experiment("archived")
    assert stock.create_experiment("archived").experiment_id == experiment.experiment_id
    stock.archive_experiment(experiment.experiment_id)
    assert stock.get_experiment(experiment_name="archived").storage_state == "ARCHIVED"
    stock.unarchive_experiment(experiment.experiment_id)
    stock.delete_experiment(experiment.experiment_id)
    with pytest.raises(ValueError, match="No experiment"):
        stock.get_experiment(experiment_name="archived")


@pytest.mark.flow(22)
def test_runs_are_found_by_name_state_time_and_experiment(
    stock: kfp.Client, client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    before = datetime.now(UTC)
    first = client.submit(compiled["quick"], {"path": str(marks)}, name="find me 1", experiment="finding")
    second = client.submit(compiled["quick"], {"path": str(marks)}, name="find me 2", experiment="finding")
    client.wait(first, 120, 0.5)
    client.wait(second, 120, 0.5)
    experiment = stock.get_experiment(experiment_name="finding").experiment_id

    def found(*predicates: dict[str, object]) -> list[str]:
        page = stock.list_runs(filter=json.dumps({"predicates": predicates}), experiment_id=experiment)
        return [run.run_id for run in page.runs or []]

    assert found({"operation": "EQUALS", "key": "display_name", "stringValue": "find me 1"}) == [first]
    assert found({"operation": 1, "key": "name", "string_value": "find me 2"}) == [second]
    assert found({"operation": "NOT_EQUALS", "key": "display_name", "stringValue": "find me 1"}) == [second]
    assert found({"operation": "IS_SUBSTRING", "key": "display_name", "stringValue": "me 1"}) == [first]
    assert found({"operation": "IN", "key": "state", "stringValues": {"values": ["FAILED", "SUCCEEDED"]}}) == [
        first,
        second,
    ]
    assert found({"operation": "GREATER_THAN", "key": "created_at", "timestampValue": before.isoformat()}) == [
        first,
        second,
    ]
    assert found({"operation": "LESS_THAN", "key": "created_at", "timestampValue": before.isoformat()}) == []
    assert found(
        {"operation": "EQUALS", "key": "state", "stringValue": "SUCCEEDED"},
        {"operation": "EQUALS", "key": "display_name", "stringValue": "find me 2"},
    ) == [second]
    newest = stock.list_runs(experiment_id=experiment, sort_by="created_at desc", page_size=1)
    assert [run.run_id for run in newest.runs] == [second]
    assert newest.total_size == 2

    stock.archive_run(first)
    assert found({"operation": "EQUALS", "key": "storage_state", "stringValue": "ARCHIVED"}) == [first]
    stock.unarchive_run(first)
    stock.delete_run(first)
    assert found() == [second]


# -- what can go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.flow(22)
def test_a_run_whose_process_is_killed_is_failed_and_says_so(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    run_id = client.submit(compiled["slow"], {"path": str(marks)}, name="killed")
    until(lambda: lines(marks) == ["began"])
    os.kill(min(processes(run_id)), signal.SIGKILL)

    with pytest.raises(RunFailedError, match="SIGKILL"):
        client.wait(run_id, 30, 0.2)
    run = client.get(run_id)
    assert run.state == "FAILED"
    assert "SIGKILL" in run.error
    assert processes(run_id) == []


@pytest.mark.flow(22)
def test_a_run_outlives_a_crash_of_the_server_and_is_found_again(
    own_server: LocalKfp, compiled: dict[str, Path], marks: Path
) -> None:
    client = KfpClient(own_server.conn)
    run_id = client.submit(compiled["slow"], {"path": str(marks), "seconds": 8}, name="survivor")
    until(lambda: lines(marks) == ["began"])
    own_server.kill()
    own_server.start()

    assert client.find("survivor").run_id == run_id
    assert client.wait(run_id, 60, 0.5).state == "SUCCEEDED"
    assert lines(marks) == ["began", "ended"]


@pytest.mark.flow(22)
def test_a_run_that_died_with_the_server_is_failed_after_the_restart(
    own_server: LocalKfp, compiled: dict[str, Path], marks: Path
) -> None:
    client = KfpClient(own_server.conn)
    run_id = client.submit(compiled["slow"], {"path": str(marks)}, name="lost")
    until(lambda: lines(marks) == ["began"])
    own_server.kill()
    for pid in processes(run_id):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not processes(run_id))
    own_server.start()

    with pytest.raises(RunFailedError):
        client.wait(run_id, 30, 0.2)
    assert "ended without a result" in client.get(run_id).error


@pytest.mark.flow(22)
def test_an_orderly_stop_leaves_no_process_and_keeps_all_state(
    own_server: LocalKfp, compiled: dict[str, Path], marks: Path
) -> None:
    client = KfpClient(own_server.conn)
    done = client.submit(compiled["quick"], {"path": str(marks)}, name="done")
    client.wait(done, 120, 0.5)
    going = client.submit(compiled["slow"], {"path": str(marks)}, name="going")
    until(lambda: "began" in lines(marks))
    own_server.stop()
    assert processes(going) == []

    own_server.start()
    assert client.state(done) == "SUCCEEDED"
    assert client.get(going).state == "FAILED"
    assert "Retry" in client.get(going).error


@pytest.mark.flow(22)
def test_a_retry_keeps_the_run_id_and_runs_only_what_had_not_succeeded(
    client: KfpClient, compiled: dict[str, Path], marks: Path, tmp_path: Path
) -> None:
    awaited = tmp_path / "awaited"
    run_id = client.submit(compiled["patient"], {"path": str(marks), "awaited": str(awaited)}, name="patient")
    with pytest.raises(RunFailedError, match="is not there yet") as error:
        client.wait(run_id, 120, 0.5)
    assert error.value.step == "needs"
    assert "FileNotFoundError" in error.value.log
    assert [(task.name, task.state) for task in client.get(run_id).tasks] == [
        ("mark", "SUCCEEDED"),
        ("needs", "FAILED"),
        ("mark-2", "SKIPPED"),
    ]

    awaited.touch()
    client.retry(run_id)
    assert client.wait(run_id, 120, 0.5).run_id == run_id
    assert lines(marks) == ["first", "third"]


@pytest.mark.flow(22)
def test_an_exit_handler_runs_when_the_body_has_failed(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    with pytest.raises(RunFailedError, match="step needs failed"):
        client.wait(client.submit(compiled["tidy"], {"path": str(marks)}, name="tidy"), 120, 0.5)
    assert lines(marks) == ["tidied after FAILED"]


@pytest.mark.flow(22)
def test_a_condition_on_a_nan_fails_the_run_instead_of_running_neither_branch(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    with pytest.raises(RunFailedError, match="Condition evaluation failed"):
        client.wait(client.submit(compiled["nan"], {"path": str(marks)}, name="nan"), 120, 0.5)
    assert lines(marks) == []


@pytest.mark.flow(22)
def test_a_step_changes_nothing_in_the_environment_and_says_which_package_it_lacks(
    client: KfpClient, compiled: dict[str, Path]
) -> None:
    assert client.wait(client.submit(compiled["defaults"], name="defaults"), 120, 0.5).state == "SUCCEEDED"
    with pytest.raises(RunFailedError, match="no-such-package-anywhere"):
        client.wait(client.submit(compiled["greedy"], name="greedy"), 120, 0.5)


@pytest.mark.flow(22)
def test_only_so_many_runs_go_at_a_time_and_a_waiting_one_can_be_canceled(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    runs = [client.submit(compiled["slow"], {"path": str(marks)}, name=f"crowd {number}") for number in range(3)]
    until(lambda: [client.state(run) for run in runs] == ["RUNNING", "RUNNING", "PENDING"])
    client.terminate(runs[2])
    assert client.state(runs[2]) == "CANCELED"
    for run in runs:
        client.terminate(run)
    until(lambda: {client.state(run) for run in runs} == {"CANCELED"}, seconds=60)
    client.terminate(runs[0])


@pytest.mark.flow(22)
def test_every_step_of_a_loop_has_its_state_and_its_log(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    seen: list[str] = []
    run_id = client.submit(compiled["looped"], {"path": str(marks)}, name="looped")
    run = client.wait(run_id, 120, 0.2, on_progress=lambda run: seen.append(run.state))
    assert sorted(lines(marks)) == ["a", "b", "c"]
    assert seen[-1] == "SUCCEEDED"
    assert len(seen) > 2
    steps = [task for task in run.tasks if task.name == "mark"]
    assert len(steps) == 3
    assert {task.state for task in steps} == {"SUCCEEDED"}
    assert all(task.started < task.ended for task in steps)
    for task in steps:
        assert "mark" in client.log(run_id, task.task_id)
    with pytest.raises(NotFoundError):
        client.log(run_id, "no-such-step")


@pytest.mark.flow(22)
@pytest.mark.parametrize("name", ["side_by_side", "side_by_side_in_a_branch"])
def test_steps_without_an_edge_between_them_run_at_the_same_time_and_what_follows_waits_for_both(
    client: KfpClient, compiled: dict[str, Path], marks: Path, name: str
) -> None:
    run = client.wait(client.submit(compiled[name], {"path": str(marks)}, name=name), 120, 0.2)
    steps = {task.name: task for task in run.tasks if task.name in ("meets", "meets-2", "mark")}
    first, second, last = steps["meets"], steps["meets-2"], steps["mark"]
    assert max(first.started, second.started) < min(first.ended, second.ended)
    assert last.started >= max(first.ended, second.ended)
    assert lines(marks) == ["both"]


@pytest.mark.flow(22)
def test_a_failed_step_ends_the_run_and_no_step_is_lost_or_run_twice(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    run_id = client.submit(compiled["one_fails"], {"path": str(marks)}, name="one fails")
    until(lambda: client.get(run_id).done)
    states = {task.name: task.state for task in client.get(run_id).tasks}
    assert states["needs"] == "FAILED"
    assert {states["mark"], states["mark-2"]} <= {"SUCCEEDED", "SKIPPED"}
    told = {"mark": "first", "mark-2": "second"}
    assert lines(marks) == [text for name, text in told.items() if states[name] == "SUCCEEDED"]


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.flow(22)
def test_a_caller_without_the_token_learns_nothing(server: LocalKfp) -> None:
    for token in ("", "wrong"):
        config = kfp_server_api.Configuration(host=server.conn.url)
        if token:
            config.api_key, config.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        api = kfp_server_api.ApiClient(config)
        with pytest.raises(kfp_server_api.ApiException) as error:
            kfp_server_api.RunServiceApi(api).run_service_list_runs()
        assert error.value.status == 401
        assert json.loads(error.value.body)["code"] == 16
        assert kfp_server_api.HealthzServiceApi(api).healthz_service_get_healthz().multi_user is False
    assert server.token not in server.log.read_text()


@pytest.mark.flow(22)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "p", "colour": "red"}, "no parameter colour"),
        ({}, "needs a value for path"),
        ({"path": 3}, "path must be STRING"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    client: KfpClient, compiled: dict[str, Path], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        client.submit(compiled["quick"], arguments, name=f"refused {said}")
    assert client.find(f"refused {said}") is None


@pytest.mark.flow(22)
def test_bad_requests_get_an_error_that_names_the_fault(stock: kfp.Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    runs, uploads = stock.runs, stock.pipeline_uploads

    def refused(status: int, said: str, call: object, *given: object, **named: object) -> None:
        with pytest.raises(kfp_server_api.ApiException) as error:
            call(*given, **named)  # type: ignore[operator]
        assert (error.value.status, said in json.loads(error.value.body)["message"]) == (status, True), error.value

    refused(404, "Run nobody not found", stock.get_run, "nobody")
    refused(404, "not found", stock.terminate_run, "nobody")
    refused(400, "cannot be read", uploads.upload_pipeline, str(broken), name="broken")
    refused(400, "filter", runs.run_service_list_runs, filter="{")
    refused(400, "colour", runs.run_service_list_runs, sort_by="colour")
    refused(400, "page token", runs.run_service_list_runs, page_token="x")
    refused(400, "No pipeline", runs.run_service_create_run, kfp_server_api.V2beta1Run(display_name="x"))


@pytest.mark.flow(22)
def test_arguments_arrive_in_the_types_the_pipeline_declares(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    arguments = {
        "whole": 3.0,
        "real": 2,
        "yes": True,
        "some": [1.5, "b"],
        "facts": {"a": {"b": [None, 1.5]}},
        "path": str(marks),
    }
    client.wait(client.submit(compiled["typed"], arguments, name="typed"), 120, 0.5)
    assert marks.read_text() == "[3, 2.0, True, [1.5, 'b'], {'a': {'b': [None, 1.5]}}]"


# -- submitting once ------------------------------------------------------------------------------------------------


@pytest.mark.flow(22)
def test_submitting_twice_under_one_name_is_one_run_until_it_has_failed(
    client: KfpClient, compiled: dict[str, Path], marks: Path, tmp_path: Path
) -> None:
    arguments = {"path": str(marks), "awaited": str(tmp_path / "awaited")}
    first = client.submit(compiled["patient"], arguments, name="once")
    assert client.submit(compiled["patient"], arguments, name="once") == first
    with pytest.raises(RunFailedError):
        client.wait(first, 120, 0.5)
    (tmp_path / "awaited").touch()
    second = client.submit(compiled["patient"], arguments, name="once")
    assert second != first
    client.wait(second, 120, 0.5)
    assert client.submit(compiled["patient"], arguments, name="once") == second
    assert lines(marks) == ["first", "first", "third"]


@pytest.mark.flow(22)
def test_equal_files_are_one_version_and_a_changed_file_is_the_next(
    client: KfpClient, compiled: dict[str, Path], marks: Path, tmp_path: Path
) -> None:
    first = client.upload("versioned", compiled["quick"])
    assert client.upload("versioned", compiled["quick"]) == first
    changed = tmp_path / "changed.yaml"
    changed.write_text(compiled["quick"].read_text().replace("defaultValue: ran", "defaultValue: changed"))
    second = client.upload("versioned", changed)
    assert second.pipeline_id == first.pipeline_id
    assert second != first
    client.wait(client.submit("versioned", {"path": str(marks)}, name="newest"), 120, 0.5)
    assert lines(marks) == ["changed"]


@pytest.fixture
def faults(server: LocalKfp) -> Iterator[FaultProxy]:
    with FaultProxy(server.conn) as faults:
        yield faults


@pytest.mark.flow(22)
def test_a_run_whose_creation_got_no_answer_is_found_instead_of_started_twice(
    client: KfpClient, faults: FaultProxy, compiled: dict[str, Path], marks: Path
) -> None:
    faults.fault("lose", CREATE)
    run_id = KfpClient(faults.conn).submit(compiled["quick"], {"path": str(marks)}, name="no answer")
    assert faults.count(CREATE) == 1
    client.wait(run_id, 120, 0.5)
    assert client.find("no answer").run_id == run_id
    assert lines(marks) == ["ran"]


@pytest.mark.flow(22)
def test_a_creation_that_never_arrived_is_an_error_one_may_retry(
    client: KfpClient, faults: FaultProxy, compiled: dict[str, Path], marks: Path
) -> None:
    patient = KfpClient(faults.conn)
    patient.upload("quick", compiled["quick"])
    faults.fault("answer", CREATE, status=503)
    with pytest.raises(ServiceError, match="shows none") as error:
        patient.submit("quick", {"path": str(marks)}, name="never arrived")
    assert error.value.retryable
    assert faults.count(CREATE) == 1

    faults.clear()
    client.wait(patient.submit("quick", {"path": str(marks)}, name="never arrived"), 120, 0.5)
    assert lines(marks) == ["ran"]


@pytest.mark.flow(22)
def test_a_wait_survives_a_server_that_is_away_for_a_while(
    own_server: LocalKfp, compiled: dict[str, Path], marks: Path
) -> None:
    client = KfpClient(own_server.conn)
    run_id = client.submit(compiled["slow"], {"path": str(marks), "seconds": 6}, name="away")
    until(lambda: lines(marks) == ["began"])
    own_server.kill()
    threading.Timer(8, own_server.start).start()
    assert client.wait(run_id, 60, 0.5).state == "SUCCEEDED"


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.flow(22)
def test_a_step_within_its_limits_ends_well_on_as_many_processors_as_it_may_use(
    client: KfpClient, compiled: dict[str, Path], marks: Path
) -> None:
    run_id = client.submit(compiled["limited"], {"path": str(marks), "megabytes": 100}, name="within limits")
    assert client.wait(run_id, 60, 0.5).state == "SUCCEEDED"
    assert lines(marks) == ["1 done"]


@pytest.mark.flow(22)
@pytest.mark.parametrize("by_child", [False, True], ids=["itself", "its child"])
def test_a_step_that_takes_more_memory_than_its_limit_is_killed_and_the_message_says_so(
    client: KfpClient, compiled: dict[str, Path], marks: Path, by_child: bool
) -> None:
    arguments = {"path": str(marks), "megabytes": 800, "by_child": by_child}
    run_id = client.submit(compiled["limited"], arguments, name=f"beyond its limit {by_child}")
    with pytest.raises(RunFailedError, match=r"OOMKilled: the step used .* its limit is 0.50 GB"):
        client.wait(run_id, 60, 0.5)
    assert lines(marks) == ["1"], "the step did not reach its end"
    assert processes(run_id) == []


@pytest.mark.flow(22)
def test_limits_may_be_arguments_of_the_pipeline(client: KfpClient, compiled: dict[str, Path], marks: Path) -> None:
    def run(**arguments: str) -> str:
        given = {"path": str(marks), "megabytes": 600, **arguments}
        return client.submit(compiled["asked"], given, name=f"asked {arguments}")

    assert client.wait(run(cpu="500m", memory="2G"), 60, 0.5).state == "SUCCEEDED"
    assert lines(marks) == ["1 done"]
    with pytest.raises(RunFailedError, match=r"OOMKilled: .* its limit is 0.52 GB"):
        client.wait(run(), 60, 0.5)
    with pytest.raises(RunFailedError, match="'plenty' is no quantity of CPU or memory"):
        client.wait(run(memory="plenty"), 60, 0.5)
