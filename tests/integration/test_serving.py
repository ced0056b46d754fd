"""The model server as a real process, with a real registry, object store and Redis."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
import waiting
from adin.connections import Connection
from adin.errors import DataError, NotFoundError, RefusedError, ServiceError
from adin.features import online, repo
from adin.models import artifact, registry
from adin.serving.client import ServingClient
from adin.settings import ROOT, settings
from redis_server import RedisServer, free_port
from servers import Servers

pytestmark = [pytest.mark.ml, pytest.mark.flow(12, 14)]
SHOP = Path(__file__).parents[1] / "shop"
AT = datetime(2013, 7, 1, 12, tzinfo=UTC)
MODEL = "bread_bill"
CORNER = {"shop": "corner", "till_id": 1, "weight": 2.0, "asked_at": "2013-07-01T13:00:00Z"}


def bread(shop: str, price: float | None, at: datetime = AT) -> pa.Table:
    """One row of the view ``prices``."""
    return pa.table(
        {
            "shop": [shop],
            "bread": pa.array([price], pa.float32()),
            "level": pa.array([1], pa.int32()),
            "event_timestamp": [at],
            "created_timestamp": [at],
        }
    )


def takings(shop: str, till: int, amount: float, at: datetime = AT) -> pa.Table:
    """One row of the view ``takings``."""
    row = {"shop": shop, "till_id": till, "amount": amount, "mean": 1.0, "orders": 1, "cents": 1, "open": True}
    row |= {"keeper": "Ann", "opened_at": at, "event_timestamp": at, "created_timestamp": at}
    return pa.Table.from_pylist([row])


def register(factor: float, code: str = "", service: str = "counter", evaluated: Sequence[float] | None = None) -> int:
    """Register a version with a factor of its own and return its number.

    :param code: is added to its train.py.
    :param evaluated: predictions of its evaluation.
    """
    folder = settings().home / secrets.token_hex(4)
    folder.mkdir(parents=True)
    source = folder / "source.py"
    source.write_text((SHOP / "problems" / MODEL / "train.py").read_text() + code)
    artifact.save(artifact.code(source).fit(None, None, {"factor": factor}), source, folder / "model")
    columns = repo.service("shop", "counter").columns
    manifest = {
        "dataset": f"commit-{factor}",
        "window": "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z",
        "sources": {},
        "service": service,
        "registry": "definitions-1",
        "features": columns,
        "signature": {"inputs": dict.fromkeys(columns, "float64"), "output": {"dtype": "float64"}},
        "parameters": {"factor": factor},
        "metrics": {"test": {"all": {"mae": 0.1}}},
        "code_version": "test",
        "kfp_run": "test",
        "owner": "tests",
    }
    names = [artifact.MODEL, artifact.CODE]
    if evaluated is not None:
        pd.DataFrame({artifact.REPLAYED: evaluated}).to_parquet(folder / "model" / artifact.REPLAY)
        names.append(artifact.REPLAY)
    files = {name: folder / "model" / name for name in names}
    return registry().register(MODEL, manifest, files, actor="test", run_key=secrets.token_hex(8)).number


def promote(number: int) -> None:
    """Make a version champion in the log."""
    models = registry()
    models.append(MODEL, "validate", version=number, actor="test", reason="test")
    models.append(MODEL, "promote", version=number, actor="test", reason="test")


class Server:
    """The model server's process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it and wait until it lives."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "adin.serving.server"], stdout=log, stderr=log)
        until(lambda: httpx.get(f"{url()}/v2/health/live").is_success, 120)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def url() -> str:
    from adin.connections import connection

    return connection("kserve").url


until = partial(waiting.until, despite=(httpx.HTTPError, NotFoundError, ServiceError))


@pytest.fixture(scope="module")
def world(servers: Servers, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The connections and folders of a deployment of our own, in the environment."""
    home = tmp_path_factory.mktemp("serving")
    shutil.copytree(SHOP / "problems", home / "problems")
    kserve = Connection("kserve", "127.0.0.1", free_port(), password=secrets.token_urlsafe(16))
    with pytest.MonkeyPatch.context() as patch:
        for conn in (servers.s3, servers.database, redis_server.connection, kserve):
            patch.setenv(f"ADIN_CONN_{conn.name.upper()}", conn.uri)
        patch.setenv("ADIN_HOME", str(home))
        patch.setenv("ADIN_PROJECT", "serving_test")
        patch.setenv("ADIN_PROBLEMS", str(home / "problems"))
        patch.setenv("ADIN_FEATURE_REPO", str(SHOP / "features"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "include"), str(ROOT)]))
        settings.cache_clear()
        repo.read_anew()
        view = repo.domain("shop").view
        online.write(view("prices"), bread("corner", 3.0))
        online.write(view("takings"), takings("corner", 1, 10.0))
        yield home
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[Server]:
    """A model server, started when version 1 was champion already."""
    promote(register(1.0))
    server = Server(world / "server.log")
    yield server
    server.kill()
    print((world / "server.log").read_text())


@pytest.fixture
def client(server: Server) -> ServingClient:
    """A client, once version 1 answers."""
    found = ServingClient()
    until(lambda: found.status(MODEL)["ready"], 60)
    if found.status(MODEL)["version"] != 1:
        found.load(MODEL, 1)
    return found


def test_the_champion_answers_after_the_start_and_says_what_its_answer_rests_on(client: ServingClient) -> None:
    answer = client.predict(MODEL, [CORNER, {**CORNER, "till_id": 404}])
    assert answer["predictions"] == [7.0, 6.0]
    assert (answer["model_version"], answer["dataset"], answer["registry"]) == (1, "commit-1.0", "definitions-1")
    assert answer["features_at"] == {
        "prices": ["2013-07-01T12:00:00Z", "2013-07-01T12:00:00Z"],
        "takings": ["2013-07-01T12:00:00Z", None],
    }


def test_both_protocols_give_the_same_prediction(client: ServingClient) -> None:
    columns = [("shop", "BYTES"), ("till_id", "INT64"), ("weight", "FP64"), ("asked_at", "BYTES")]
    inputs = [{"name": n, "datatype": kind, "shape": [1], "data": [CORNER[n]]} for n, kind in columns]
    answer = post(f"/v2/models/{MODEL}/infer", {"id": "a", "inputs": inputs}).json()
    assert answer["outputs"][0]["data"] == client.predict(MODEL, [CORNER])["predictions"]
    assert answer["model_version"] == "1"
    assert answer["parameters"]["dataset"] == "commit-1.0"


def post(path: str, body: Any = None, *, content: bytes | None = None, token: str | None = None) -> httpx.Response:
    from adin.connections import connection

    conn = connection("kserve")
    given = conn.password if token is None else token
    headers = {"Authorization": f"Bearer {given}", "Content-Type": "application/json"}
    return httpx.post(conn.url + path, json=body, content=content, headers=headers, timeout=30)


def test_a_swap_under_load_fails_no_request_and_changes_the_version_once(client: ServingClient) -> None:
    number = register(2.0, code="\n# another text, another module\n")
    stop, seen = threading.Event(), [[] for _ in range(4)]

    def ask(answers: list[tuple[int, int]]) -> None:
        with httpx.Client(base_url=url(), headers=client._http.headers, timeout=30) as http:
            while not stop.is_set():
                answer = http.post(f"/v1/models/{MODEL}:predict", json={"instances": [CORNER]})
                told = answer.json() if answer.status_code == 200 else {"model_version": 0, "predictions": [0]}
                answers.append((answer.status_code, told["model_version"], told["predictions"][0]))

    threads = [threading.Thread(target=ask, args=(answers,)) for answers in seen]
    for thread in threads:
        thread.start()
    time.sleep(1)
    client.load(MODEL, number)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    for answers in seen:
        assert {status for status, _, _ in answers} == {200}
        versions = [version for _, version, _ in answers]
        assert versions == sorted(versions) and set(versions) == {1, number}
        assert {(version, value) for _, version, value in answers} == {(1, 7.0), (number, 13.0)}


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (f"/v1/models/{MODEL}:predict", [CORNER], 400, "instances"),
        (f"/v1/models/{MODEL}:predict", {"rows": [CORNER]}, 400, "instances"),
        (f"/v1/models/{MODEL}:predict", {"instances": CORNER}, 400, "instances"),
        (f"/v1/models/{MODEL}:predict", {"instances": []}, 400, "instances"),
        (f"/v1/models/{MODEL}:predict", {"instances": ["corner"]}, 422, "no object"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{"shop": "corner"}]}, 422, "till_id"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "till_id": "one"}]}, 422, "till_id"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "till_id": 1.5}]}, 422, "till_id"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "shop": 7}]}, 422, "shop"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "shop": ["a"]}]}, 422, "shop"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "weight": "heavy"}]}, 422, "weight"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "weight": {"kg": 1}}]}, 422, "weight"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "weight": True}]}, 422, "weight"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "asked_at": None}]}, 422, "asked_at"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "asked_at": "soon"}]}, 422, "asked_at"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "asked_at": "9999-12-31"}]}, 422, "asked_at"),
        (
            f"/v1/models/{MODEL}:predict",
            {"instances": [{**CORNER, "asked_at": "1677-09-21T00:12:44Z"}]},
            422,
            "asked_at",
        ),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "asked_at": 5}]}, 422, "asked_at"),
        (f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "shop": "nowhere"}]}, 422, "prices"),
        (f"/v2/models/{MODEL}/infer", {"inputs": []}, 400, "inputs"),
        (f"/v2/models/{MODEL}/infer", {"rows": 1}, 400, "inputs"),
        (f"/v2/models/{MODEL}/versions/7/infer", {"inputs": []}, 501, "not supported"),
        ("/v1/models/nothing:predict", {"instances": [CORNER]}, 404, "nothing"),
        ("/v2/models/nothing/infer", {"inputs": []}, 404, "nothing"),
        ("/v2/repository/models/nothing/load", {"parameters": {"version": 1}}, 404, "nothing"),
        (f"/v2/repository/models/{MODEL}/load", {"parameters": {"version": 999}}, 404, "999"),
        (f"/v2/repository/models/{MODEL}/load", {"parameters": {"version": "new"}}, 400, "version"),
        (f"/v2/repository/models/{MODEL}/load", [1], 400, "version"),
    ],
)
def test_a_users_mistake_is_named_and_never_a_500(
    client: ServingClient, path: str, body: Any, status: int, text: str
) -> None:
    answer = post(path, body)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text


def test_what_is_no_json_is_refused(client: ServingClient) -> None:
    for path in (f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer", f"/v2/repository/models/{MODEL}/load"):
        assert post(path, content=b"{not json").status_code == 400, path


def test_without_the_token_only_health_and_metrics_answer(client: ServingClient) -> None:
    assert post(f"/v1/models/{MODEL}:predict", {"instances": [CORNER]}, token="wrong").status_code == 401
    assert post(f"/v2/repository/models/{MODEL}/load", token="x").status_code == 401
    assert httpx.get(f"{url()}/v2/models").status_code == 401
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready", "/metrics"):
        assert httpx.get(url() + path).status_code == 200, path


def test_a_version_whose_features_are_not_online_is_refused_and_the_former_one_goes_on(
    client: ServingClient, redis_server: RedisServer
) -> None:
    from adin.features import wire

    number = register(3.0)
    with wire.Session(redis_server.connection) as session:
        session.exchange(wire.command(b"FLUSHALL"), 1)
    try:
        with pytest.raises(RefusedError, match="nothing is online of"):
            client.load(MODEL, number)
        with pytest.raises(RefusedError, match="nothing is online of"):
            client.check(MODEL, number)
    finally:
        online.write(repo.domain("shop").view("prices"), bread("corner", 3.0))
        online.write(repo.domain("shop").view("takings"), takings("corner", 1, 10.0))
    assert client.predict(MODEL, [CORNER])["model_version"] == 1


def test_a_version_is_checked_without_coming_under_load(client: ServingClient) -> None:
    number = register(4.0)
    assert client.check(MODEL, number)["version"] == number
    assert client.status(MODEL)["version"] == 1


def test_a_file_that_was_changed_is_never_loaded(client: ServingClient, servers: Servers) -> None:
    import io

    from servers import s3_client

    number = register(5.5)
    file = next(f for f in registry().version(MODEL, number).manifest.files if f.name == artifact.MODEL)
    s3_client(servers.s3).put_object(servers.bucket, f"{MODEL}/files/{file.sha256}", io.BytesIO(b"bad"), 3)
    with pytest.raises(DataError, match="SHA-256 differs"):
        client.load(MODEL, number)
    assert client.predict(MODEL, [CORNER])["model_version"] == 1


def test_a_stale_value_counts_as_missing(client: ServingClient) -> None:
    fresh = {**CORNER, "asked_at": (AT + timedelta(hours=1, minutes=30)).isoformat()}
    stale = {**CORNER, "asked_at": (AT + timedelta(hours=6, minutes=30)).isoformat()}
    assert client.predict(MODEL, [fresh, stale])["predictions"] == [7.0, 6.0]


def test_null_in_redis_reaches_the_model_as_missing(client: ServingClient) -> None:
    online.write(repo.domain("shop").view("prices"), bread("gratis", None))
    answer = post(f"/v1/models/{MODEL}:predict", {"instances": [{**CORNER, "shop": "gratis"}]})
    assert answer.json()["predictions"] == [None]


def test_while_redis_is_down_the_answer_is_503_and_afterwards_right_again(
    client: ServingClient, redis_server: RedisServer
) -> None:
    redis_server.kill()
    try:
        assert post(f"/v1/models/{MODEL}:predict", {"instances": [CORNER]}).status_code == 503
    finally:
        redis_server.start()
    until(lambda: client.predict(MODEL, [CORNER])["predictions"] == [7.0], 60)


def test_requests_are_counted_by_model_version_and_code(client: ServingClient) -> None:
    def counted(code: int, version: int = 1) -> float:
        lines = httpx.get(f"{url()}/metrics").text.splitlines()
        wanted = f'adin_requests_total{{code="{code}",model="{MODEL}",version="{version}"}} '
        return float(next((line for line in lines if line.startswith(wanted)), f"{wanted}0").rpartition(" ")[2])

    good, bad = counted(200), counted(422)
    client.predict(MODEL, [CORNER])
    with pytest.raises(DataError):
        client.predict(MODEL, [{}])
    assert (counted(200), counted(422)) == (good + 1, bad + 1)


def test_the_log_has_no_line_for_each_request(client: ServingClient, world: Path) -> None:
    before = (world / "server.log").stat().st_size
    for _ in range(20):
        client.predict(MODEL, [CORNER])
        post(f"/v1/models/{MODEL}:predict", {"instances": 1})
        post("/v1/models/nothing:predict", {"instances": [CORNER]})
    assert (world / "server.log").stat().st_size == before


def test_after_kill_9_the_champion_answers_again(client: ServingClient, server: Server) -> None:
    server.kill()
    server.start()
    until(lambda: client.predict(MODEL, [CORNER])["predictions"] == [7.0], 60)
