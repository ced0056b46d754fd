"""The operators under test: each with a piece of real work on a real server, behind a proxy that can misbehave."""

from __future__ import annotations

import io
import json
import random
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import uuid4

import kube_server
import pyarrow
import pyarrow.parquet
from adin.connections import Connection, connection
from adin.datasets.clickhouse import clickhouse
from adin.datasets.lake import Lake
from adin.errors import NotFoundError
from adin.features import hdfs, jobs
from adin.models import registry
from adin.models.doctor import judge
from adin.pipelines.client import KfpClient
from adin.serving.inference_service import InferenceServices
from adin.settings import ROOT
from airflow.sdk import BaseOperator
from fault_proxy import FaultProxy
from kubernetes.client.exceptions import ApiException
from model_facts import files, validated
from waiting import until

from operators.amversion import AmversionPromoteOperator
from operators.clickhouse import ClickHouseLoadOperator
from operators.kfp import KfpRetryOperator, KfpRunOperator
from operators.kserve import InferenceServiceOperator
from operators.lakefs import LakefsMergeOperator, LakefsRevertOperator, LakefsTagOperator
from operators.spark_hive import SparkHiveIngestOperator

#: Limits of the clients in these tests: faults are met in seconds.
IMPATIENT = {"connect_timeout": 1, "read_timeout": 1, "retries": 1, "backoff": 0.05, "breaker_failures": 0}


class Store(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def context(run_id: str = "scheduled__1", store: Store | None = None) -> dict[str, Any]:
    """Return what Airflow gives a task."""
    pushed: dict[str, Any] = {}
    task = SimpleNamespace(
        dag_id="contract",
        run_id=run_id,
        task_id="t",
        map_index=-1,
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    return {
        "ti": task,
        "task_state_store": store,
        "dag_run": SimpleNamespace(triggering_user_name=None),
        "pushed": pushed,
    }


class Subject:
    """One piece of work, new for each test.

    :ivar submit: pattern of the request that starts the work.
    :ivar read: pattern of a request that only looks.
    :ivar denied: the answer to a wrong sign-in.
    :ivar renewed: times the work is done once a cleared task asked for new work.
    :ivar twice: times it is done by two runs of one backfill.
    """

    kind: type[BaseOperator]
    submit = ""
    read = "^GET "
    denied: ClassVar[dict[str, Any]] = {"status": 401}
    renewed = twice = 1

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.arguments: dict[str, Any] = {}

    def operator(self, **more: Any) -> Any:
        return self.kind(task_id="t", **self.arguments, **more)

    def run(self, run_id: str = "scheduled__1", *, store: Store | None = None, **more: Any) -> Any:
        """Do what one try of a task does."""
        return self.operator(**more).execute(context(run_id, store))

    def works(self) -> int:
        """Return how often the work was done, as the target shows it."""
        raise NotImplementedError

    def check(self, result: Any) -> None:
        """See that a result tells of the work."""
        raise NotImplementedError

    def let_fail(self) -> None:
        """Make the work fail in the target."""

    def let_last(self) -> None:
        """Make the work last until it is stopped."""

    def going(self) -> bool:
        """Tell whether the work goes in the target."""
        return False

    def stop_outside(self) -> None:
        """Stop the work in the target, without the operator."""

    def stopped(self) -> bool:
        """Tell whether the target shows the work as stopped, with nothing of it left."""
        return False

    def mend(self) -> None:
        """Take back what makes the work fail or last."""
        self.proxy.clear()


class Run(Subject):
    """A pipeline run, submitted and followed."""

    kind = KfpRunOperator
    submit = "^POST /apis/v2beta1/runs\\b"
    renewed = twice = 2

    def __init__(self, proxy: FaultProxy, pipelines: Path, folder: Path, direct: Connection) -> None:
        super().__init__(proxy)
        self.client = KfpClient(direct)
        self.marks = folder / "marks"
        self.pipelines = pipelines
        self.name = f"e-{uuid4().hex[:8]}"
        self._use("quick", path=str(self.marks))

    def _use(self, pipeline: str, **arguments: Any) -> None:
        path = str(self.pipelines / f"{pipeline}.yaml")
        self.arguments = {"pipeline": path, "arguments": arguments, "experiment": self.name, "poll_interval": 0.1}

    def runs(self) -> list[Any]:
        experiment = self.client._experiment(self.name)
        page = self.client._call(self.client._runs.run_service_list_runs, experiment_id=experiment, page_size=50)
        return list(page.runs or [])

    def works(self) -> int:
        marked = len(self.marks.read_text().splitlines()) if self.marks.exists() else 0
        assert marked == len(self.runs())
        return marked

    def check(self, result: Any) -> None:
        assert result in [run.run_id for run in self.runs()]
        assert self.client.state(result) == "SUCCEEDED"

    def let_fail(self) -> None:
        self._use("awaits", path=str(self.marks.with_name("absent")))

    def let_last(self) -> None:
        self._use("slow", path=str(self.marks), seconds=60)

    def going(self) -> bool:
        return [run.state for run in self.runs()] == ["RUNNING"] and self.marks.exists()

    def stop_outside(self) -> None:
        self.client.terminate(self.runs()[0].run_id)

    def vanish(self) -> None:
        self.client.delete(self.runs()[0].run_id)

    def stopped(self) -> bool:
        return [run.state for run in self.runs()] == ["CANCELED"]


class Retry(Subject):
    """A run that has failed, and whose cause is mended."""

    kind = KfpRetryOperator
    submit = "^POST /apis/v2beta1/runs/[^/]+:retry"

    def __init__(self, proxy: FaultProxy, pipelines: Path, folder: Path, direct: Connection) -> None:
        super().__init__(proxy)
        self.client = KfpClient(direct)
        self.awaited = folder / "awaited"
        name = f"failed-{uuid4().hex[:8]}"
        given = {"path": str(self.awaited)}
        self.id = self.client.submit(pipelines / "awaits_long.yaml", given, name=name, experiment="production")
        until(lambda: self.client.state(self.id) == "FAILED")
        self.awaited.touch()
        self.arguments = {"run": self.id, "poll_interval": 0.1}

    def works(self) -> int:
        found = self.client._call(self.client._runs.run_service_get_run, self.id)
        return [entry.state for entry in found.state_history].count("PENDING") - 1

    def check(self, result: Any) -> None:
        assert result == self.id
        assert self.client.state(self.id) == "SUCCEEDED"

    def let_fail(self) -> None:
        self.awaited.unlink()

    def let_last(self) -> None:
        self.awaited.write_text("60")

    def going(self) -> bool:
        return self.client.state(self.id) == "RUNNING"

    def stop_outside(self) -> None:
        self.client.terminate(self.id)

    def vanish(self) -> None:
        self.client.delete(self.id)

    def stopped(self) -> bool:
        return self.client.state(self.id) == "CANCELED"


class _Branches(Subject):
    """A branch of lakeFS, and one that is ahead of it by a file."""

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy)
        self.lake = Lake(direct)
        self.branch = f"contract-{uuid4().hex[:10]}"
        self.ahead = f"{self.branch}-ahead"
        self.lake.create_branch(self.branch, "main")
        self.lake.create_branch(self.ahead, self.branch)
        self.lake.upload(self.ahead, "a.txt", uuid4().bytes)
        self.change = self.lake.commit(self.ahead, "Add a file", {})

    def close(self) -> None:
        self.lake.delete_branch(self.ahead)
        self.lake.delete_branch(self.branch)

    def _keyed(self, branch: str) -> int:
        return sum("adin_run_key" in (commit.metadata or {}) for commit in self.lake.log(branch))


class Merge(_Branches):
    kind = LakefsMergeOperator

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy, direct)
        self.arguments = {"source": self.ahead, "target": self.branch}
        self.submit = f"^POST .*/refs/{self.ahead}/merge/{self.branch}"

    def works(self) -> int:
        assert self.lake.paths(self.branch, "a.txt") == ["a.txt"]
        return self._keyed(self.branch)

    def check(self, result: Any) -> None:
        assert result["commit"] == self.lake.resolve(self.branch)


class Tag(_Branches):
    kind = LakefsTagOperator
    submit = "^POST .*/tags\\b"

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy, direct)
        self.arguments = {"tag": f"tag-{self.branch}", "ref": self.ahead}

    def works(self) -> int:
        return int(self.lake.tagged(self.arguments["tag"]) == self.change)

    def check(self, result: Any) -> None:
        assert result["commit"] == self.change


class Revert(_Branches):
    kind = LakefsRevertOperator

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy, direct)
        self.arguments = {"branch": self.ahead, "ref": self.change}
        self.submit = f"^POST .*/branches/{self.ahead}/revert"

    def works(self) -> int:
        assert self.lake.paths(self.ahead, "a.txt") == []
        return self._keyed(self.ahead)

    def check(self, result: Any) -> None:
        assert result["commit"] == self.lake.resolve(self.ahead)


class Load(Subject):
    """A dataset version in lakeFS, to be copied into ClickHouse.

    :param source: proxy of lakeFS, from which the engine reads the files.
    """

    kind = ClickHouseLoadOperator
    submit = "INSERT INTO"
    read = "DESCRIBE TABLE"
    rows = 1000

    def __init__(self, proxy: FaultProxy, source: FaultProxy, lake: Connection, direct: Connection) -> None:
        super().__init__(proxy)
        self.source, self.direct, self.lake = source, direct, Lake(lake)
        self.problem = f"contract_{uuid4().hex[:10]}"
        self.lake.create_branch(self.problem, "main")
        self.arguments = {"problem": self.problem, "commit": self._version(damaged=False)}
        self._insert = f"INSERT INTO `{direct.schema}`"

    def close(self) -> None:
        with clickhouse(self.direct) as client:
            client.command(f"DROP TABLE IF EXISTS `{self.direct.schema}`.`{self.problem}`")
        self.lake.delete_branch(self.problem)

    def works(self) -> int:
        with clickhouse(self.direct) as client:
            assert client.query(self._of_system("tables", "name LIKE 'stage_contract-t%'")).result_rows == []
            table = f"`{self.direct.schema}`.`{self.problem}`"
            rows = client.query(f"SELECT count() FROM {table}").result_rows[0][0]
        assert rows in (0, self.rows)
        return int(rows / self.rows)

    def check(self, result: Any) -> None:
        assert result["rows"] == {"train": self.rows}

    def let_fail(self) -> None:
        self.arguments["commit"] = self._version(damaged=True)

    def let_last(self) -> None:
        commit = self.arguments["commit"]
        self.proxy.fault(
            "call", self._insert, do=lambda: self.source.fault("hold", f"^GET /[^/]+/{commit}/data/.*parquet")
        )

    def going(self) -> bool:
        with clickhouse(self.direct) as client:
            asked = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO%' AND query LIKE '%" + (
                self.arguments["commit"] + "%'"
            )
            return bool(client.query(asked).result_rows[0][0]) and any(
                fault.met.is_set() for fault in self.source.faults
            )

    def stop_outside(self) -> None:
        with clickhouse(self.direct) as client:
            client.command("KILL QUERY WHERE query LIKE 'INSERT INTO%' ASYNC")
        self.source.clear()

    def stopped(self) -> bool:
        if self.proxy.count("KILL QUERY"):
            self.source.clear()  # the engine looks up from a read it waits for
        with suppress(AssertionError):
            return self.works() == 0 and not self.going()
        return False

    def mend(self) -> None:
        super().mend()
        self.source.clear()

    def _of_system(self, table: str, where: str) -> str:
        return f"SELECT name FROM system.{table} WHERE database = '{self.direct.schema}' AND {where}"

    def _version(self, *, damaged: bool) -> str:
        """Commit a training set of some rows, and of files that cannot be read if asked."""
        at = pyarrow.array([n * 1_000_000 for n in range(self.rows)], pyarrow.timestamp("us", "UTC"))
        table = pyarrow.table({"event_timestamp": at, "n": list(range(self.rows))})
        file = io.BytesIO()
        pyarrow.parquet.write_table(table, file)
        content = file.getvalue()
        content = content[:100] + b"\0" * 400 + content[500:] if damaged else content
        self.lake.upload(self.problem, "data/split=train/part-0.parquet", content)
        manifest = {"problem": self.problem, "rows": {"train": self.rows}, "window": "", "files": [], "id": uuid4().hex}
        self.lake.upload(self.problem, "manifest.json", json.dumps(manifest).encode())
        return self.lake.commit(self.problem, "A version", {})


class Promote(Subject):
    """A validated version of a model, in the file edition of AMVersion."""

    kind = AmversionPromoteOperator
    denied: ClassVar[dict[str, Any]] = {
        "status": 403,
        "body": b"<Error><Code>AccessDenied</Code></Error>",
        "type": "application/xml",
    }

    def __init__(self, proxy: FaultProxy, direct: Connection, where: Connection, folder: Path) -> None:
        super().__init__(proxy)
        self.model = f"m_{uuid4().hex[:10]}"
        self.open = lambda: registry(where, s3=direct)
        models = self.open()
        version = validated(models, self.model, files(folder / "files"), "trained")
        # the store behind the proxy is known to be safe; a race at each new address would take its 1 s time limits
        judge(registry(where, s3=proxy.conn).store, rounds=0)
        self.arguments = {"model": self.model, "version": version, "reason": "better"}
        entry = len(models.log(self.model)) + 1
        self.submit = f"^PUT .*{self.model}/log/0*{entry}.json"

    def works(self) -> int:
        return [entry.event for entry in self.open().log(self.model)].count("promote")

    def check(self, result: Any) -> None:
        assert self.open().state(self.model).champion == result["version"] == self.arguments["version"]


class Service(Subject):
    """An InferenceService that stands there, ready, and shall have another model.

    No controller runs: a thread writes to the object's status what KServe's would, half a second late.
    """

    kind = InferenceServiceOperator
    former, wanted, others = (
        {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": f"s3://models/{n}"}}}
        for n in range(3)
    )

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy)
        self.name = f"s-{uuid4().hex[:10]}"
        self.services = InferenceServices(kube_server.client(direct), "default")
        self._direct, self._left = direct, self.former
        self._transition, self._ready, self._over = "UpToDate", "True", threading.Event()
        self.services.apply(self.name, self.former, key="before")
        self._told = threading.Thread(target=self._tell, daemon=True)
        self._told.start()
        until(lambda: self._status().get("observedGeneration") == 1)
        self.arguments = {"service": self.name, "spec": self.wanted, "poll_interval": 0.1}
        self.submit = f"^PATCH .*/inferenceservices/{self.name}"

    def close(self) -> None:
        self._over.set()
        self._told.join(30)

    def works(self) -> int:
        return int(self.services.get(self.name)["metadata"]["generation"]) - 1

    def check(self, result: Any) -> None:
        assert result["generation"] == 2 == self._status()["observedGeneration"]
        assert result["url"] == "http://s.example/2"
        assert self.services.get(self.name)["spec"] == self.wanted

    def let_fail(self) -> None:
        self._transition = "BlockedByFailedLoad"

    def let_last(self) -> None:
        self._ready = "False"

    def going(self) -> bool:
        return self._status()["observedGeneration"] == 2 and self._status()["conditions"][0]["status"] == "False"

    def stop_outside(self) -> None:
        self._left = self.others
        self.services.apply(self.name, self.others, key="another")

    def vanish(self) -> None:
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{self.name}"
        kube_server.ask(self._direct, "DELETE", path)

    def stopped(self) -> bool:
        return self.services.get(self.name)["spec"] == self._left

    def _status(self) -> dict[str, Any]:
        return self.services.get(self.name).get("status") or {}

    def _tell(self) -> None:
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{self.name}/status"
        while not self._over.wait(0.05):
            with suppress(NotFoundError, ApiException):
                generation = self.services.get(self.name)["metadata"]["generation"]
                first = generation == 1
                if generation > 1 and self._status()["observedGeneration"] < generation:
                    self._over.wait(0.5)
                status = {
                    "observedGeneration": generation,
                    "url": f"http://s.example/{generation}",
                    "conditions": [{"type": "Ready", "status": "True" if first else self._ready}],
                    "modelStatus": {"transitionStatus": "UpToDate" if first else self._transition},
                }
                body = {"status": status}
                kube_server.ask(self._direct, "PATCH", path, body, kind=_MERGE)


class Ingest(Subject):
    """A day's ingest as SparkApplication.

    No Spark operator runs: a thread writes to the object's status what it would, and leaves the driver's result in
    HDFS.
    """

    kind = SparkHiveIngestOperator
    repository = ROOT / "tests" / "integration" / "scratch" / "feature_repo"
    submit = "^POST .*/sparkapplications"
    renewed = twice = 2  # staged anew: nothing was published between
    _PATH = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/default/sparkapplications"

    def __init__(self, proxy: FaultProxy, direct: Connection) -> None:
        super().__init__(proxy)
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=random.randrange(15_000))
        window = f"{start:%Y-%m-%d}/{start + timedelta(days=1):%Y-%m-%d}"
        self.arguments = {"domain": "meters", "view": "hourly", "window": window, "poll_interval": 0.1}
        self._direct, self._end, self._over = direct, "COMPLETED", threading.Event()
        self._keys: set[str] = set()
        self._controller = threading.Thread(target=self._control, daemon=True)
        self._controller.start()

    def close(self) -> None:
        self._over.set()
        self._controller.join(30)
        for key in self._keys:
            jobs.forget(key)

    def works(self) -> int:
        return len(self._applications())

    def check(self, result: Any) -> None:
        assert result["window"] == self.arguments["window"]
        assert result["application_id"] in [each["metadata"]["name"] for each in self._applications()]

    def let_fail(self) -> None:
        self._end = "FAILED"

    def let_last(self) -> None:
        self._end = "RUNNING"

    def going(self) -> bool:
        return self._states() == ["RUNNING"]

    def stop_outside(self) -> None:
        self._end = "FAILED"

    def vanish(self) -> None:
        for each in self._applications():
            kube_server.ask(self._direct, "DELETE", f"{self._PATH}/{each['metadata']['name']}")

    def stopped(self) -> bool:
        return self._states() in ([], ["FAILED"])

    def _applications(self) -> list[dict[str, Any]]:
        found = kube_server.ask(self._direct, "GET", self._PATH)["items"]
        return [each for each in found if self.arguments["window"] in each["spec"]["arguments"][0]]

    def _states(self) -> list[str]:
        return [each.get("status", {}).get("applicationState", {}).get("state", "") for each in self._applications()]

    def _control(self) -> None:
        while not self._over.wait(0.1):
            for each in self._applications():
                state = each.get("status", {}).get("applicationState", {}).get("state", "")
                if state not in ("COMPLETED", "FAILED", self._end):
                    self._go_on(each, self._end if state else "SUBMITTED")

    def _go_on(self, found: dict[str, Any], state: str) -> None:
        name = found["metadata"]["name"]
        if state == "COMPLETED":
            told = json.loads(found["spec"]["arguments"][0])
            self._keys.add(told["key"])
            day = {self.arguments["window"][:10]: {"rows": 1, "fingerprint": "1"}}
            facts = {"application_id": name, "window": told["window"], "table": "meters.hourly", "partitions": day}
            hdfs.write(told["result"], json.dumps(facts | {"key": told["key"]}).encode())
        body = {"status": {"applicationState": {"state": state, "errorMessage": ""}, "driverInfo": {}}}
        try:
            kube_server.ask(self._direct, "PATCH", f"{self._PATH}/{name}/status", body, kind=_MERGE)
        except ApiException as error:
            if error.status != 404:  # deleted meanwhile
                raise


#: How a part of an object is changed.
_MERGE = "application/merge-patch+json"


def spark_on_kubernetes(conn: Connection) -> Connection:
    """Return the stack's connection ``spark`` with Kubernetes as its master."""
    more = {"deploy_mode": "cluster", "image": "adin/airflow"}
    master = f"k8s://http://{conn.host}:{conn.port}"
    spark = connection("spark")
    return impatient(replace(spark, host=master, password=conn.password, extra={**spark.extra, **more}))


def impatient(conn: Connection) -> Connection:
    """Return a connection whose clients give up soon."""
    return replace(conn, extra={**conn.extra, **IMPATIENT})


#: Errors on the way count as not so.
wait_for = partial(until, seconds=30, despite=(Exception,))
