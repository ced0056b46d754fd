"""Promote, register and search among 10,000 model versions: ours, both editions | MLflow | a bare round trip.

MLflow works on a database of the same PostgreSQL, through its own client without a server between, in an environment
that is made for it at first use. It cannot search versions by metric: it filters by tag, and the client by number.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adin.commands import output
from adin.connections import Connection, connection
from adin.errors import ConflictError
from adin.models import ModelManifest, Query, Registry, registry
from adin.models.log import State, following
from adin.settings import ROOT

from bench.measuring import median

MODELS, EACH = 20, 500
#: Promotions, registrations and searches of each side, and the writers that meet, with promotions of each.
TIMES, SEARCHES, WRITERS, SHARE = 40, 20, 4, 25
MLFLOW = "mlflow==3.17.2"
QUERY = {"auc": 0.79, "dataset": "c0ffee07"}


def measure() -> list[dict[str, Any]]:
    """Return milliseconds of each way, medians, the same versions found by each, and the updates that got lost."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with _places(name) as (database, s3), tempfile.TemporaryDirectory() as folder:
        plan = _plan()
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(plan))
        output.step("bench registry: MLflow")
        stock = _mlflow(database, path)
        sides: dict[str, dict[str, Any]] = {}
        for edition in ("database", "files"):
            output.step(f"bench registry: {edition}")
            files = Connection("amversion", schema=name, extra={"edition": "files"})
            conn = replace(database, extra={"edition": "database", "bucket": name}) if edition == "database" else files
            sides[edition] = _ours(conn, s3, plan)
        limits = {"database": _bare_database(database), "files": _bare_bucket(sides["files"].pop("registry"))}
        sides["database"].pop("registry")
    rows = []
    for what in ("promote", "register", "search"):
        for edition, side in sides.items():
            note = f"{edition} edition, {MODELS * EACH:,} versions"
            if what == "promote":
                meeting = f"{WRITERS} writers x {SHARE}"
                note += f"; lost updates of {meeting}: ours {side['lost']}, MLflow {stock['lost']}"
            rows.append(
                {
                    "name": f"registry_{what}" + ("_files" if edition == "files" else ""),
                    "unit": "ms",
                    "ours": round(side[what], 2),
                    "stock": round(stock[what], 2),
                    "limit": round(limits[edition][what], 2),
                    "equal": side["found"] == stock["found"] and not side["lost"],
                    "note": note,
                }
            )
    return rows


def _plan() -> list[dict[str, Any]]:
    """Return what the versions are, the same for all."""
    dice = random.Random(7)
    return [
        {
            "model": f"model_{m:02}",
            "number": n,
            "auc": round(dice.uniform(0.6, 0.8), 6),
            "dataset": f"c0ffee{dice.randrange(16):02x}" + f"{n:08x}" * 4,
        }
        for m in range(MODELS)
        for n in range(1, EACH + 1)
    ]


# --- ours


def _ours(conn: Connection, s3: Connection, plan: list[dict[str, Any]]) -> dict[str, Any]:
    models = registry(conn, s3=s3)
    _fill(models, plan)
    models = registry(conn, s3=s3)  # one that has read nothing yet
    for name in models.models():
        models.state(name)
    promoted = iter(range(1, EACH))

    def promote() -> None:
        against = models.state("model_00").champion
        models.promote("model_00", next(promoted), against=against, actor="bench", reason="better")

    with tempfile.TemporaryDirectory() as folder:
        artefact = Path(folder) / "model.joblib"

        def register() -> None:
            artefact.write_bytes(os.urandom(10_000))
            facts = _facts({"auc": 0.7, "dataset": "c0ffee"}) | {"created": datetime.now(UTC)}
            models.register("model_01", facts, {"model.joblib": artefact}, actor="bench", run_key=uuid.uuid4().hex)

        query = Query(dataset=QUERY["dataset"], metrics={"auc": (QUERY["auc"], None)}, order="-auc", limit=1000)
        found = sorted((v.model, v.number) for v in models.search(query).versions)
        return {
            "found": [list(each) for each in found],
            "promote": _milliseconds(promote, TIMES),
            "register": _milliseconds(register, TIMES),
            "search": _milliseconds(lambda: models.search(query), SEARCHES),
            "lost": _lost(conn, s3),
            "registry": models,
        }


def _facts(version: dict[str, Any]) -> dict[str, Any]:
    features = [f"view_{n}__feature_{n}" for n in range(30)]
    return {
        "dataset": version["dataset"],
        "window": "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z",
        "sources": {"flights.origin_2h": {f"2013-01-{day:02}": "ab" * 16 for day in range(1, 32)}},
        "service": "flights_delay",
        "registry": "c0ffee",
        "features": features,
        "signature": {"inputs": dict.fromkeys(features, "float64"), "output": {"dtype": "float64"}},
        "parameters": {"max_iter": 200},
        "metrics": {"test": {"all": {"auc": version["auc"], "log_loss": 0.5}, "origin=JFK": {"auc": 0.7}}},
        "code_version": "abc123",
        "kfp_run": "run-1",
        "owner": "bench",
    }


def _fill(models: Registry, plan: list[dict[str, Any]]) -> None:
    """Write the versions as so many registrations would have, with one artefact a model."""
    content = b"an artefact"
    file = {"name": "model.joblib", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    began = datetime(2013, 1, 1, tzinfo=UTC)

    def fill(name: str) -> None:
        models.bucket.put(f"{name}/files/{file['sha256']}", content)
        now = State(name)
        for version in (each for each in plan if each["model"] == name):
            number = version["number"]
            filled = {"model": name, "created": began + timedelta(hours=number), "run_key": f"run-{number}"}
            manifest = ModelManifest.of({**_facts(version), **filled, "files": [file]})
            models.store.put_manifest(name, manifest.digest, manifest.document)
            evidence = {"manifest": manifest.digest, "dataset": manifest.dataset}
            run = {"actor": "bench", "reason": "filled", "run_key": f"run-{number}"}
            entries = []
            for event, more in (("register", {"evidence": evidence}), ("validate", {})):
                entry = following(now, event, version=number, **run, **more)
                now.seq, now.head = entry.seq, entry.hash
                entries.append(entry)
            for entry, state in zip(entries, ("registered", "validated"), strict=True):
                assert models.write([entry], {number: state})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, [f"model_{m:02}" for m in range(MODELS)]))


def _lost(conn: Connection, s3: Connection) -> int:
    """Let writers promote at the same time, each to the version after the champion; return what got lost."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WRITERS)
    writers = [context.Process(target=_write, args=(conn, s3, barrier)) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    champion = registry(conn, s3=s3).state("model_02").champion
    return WRITERS * SHARE - (champion or 0)


def _write(conn: Connection, s3: Connection, barrier: Any) -> None:
    models = registry(conn, s3=s3)
    models.state("model_02")
    barrier.wait()
    for _ in range(SHARE):
        while True:
            champion = models.state("model_02").champion
            try:
                models.promote("model_02", (champion or 0) + 1, against=champion, actor="bench", reason="better")
                break
            except ConflictError:
                continue


# --- the others


def _mlflow(database: Connection, plan: Path) -> dict[str, Any]:
    """Run bench/stock_mlflow.py in an environment of its own."""
    home, uv = ROOT / "build" / "bench-mlflow", str(ROOT / "build" / "tools" / "bin" / "uv")
    python = home / "bin" / "python"
    if not python.is_file():
        output.step(f"an environment for {MLFLOW}")
        subprocess.run([uv, "venv", "-q", "--python", "3.11", str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), MLFLOW, "psycopg2-binary"], check=True)
    who = f"{database.login}:{database.password}" if database.password else database.login
    environment = {
        **os.environ,
        "BENCH_DATABASE": f"postgresql+psycopg2://{who}@{database.host}:{database.port}/{database.schema}-mlflow",
        "BENCH_ASKED": json.dumps(
            {"query": QUERY, "times": TIMES, "searches": SEARCHES, "writers": WRITERS, "share": SHARE}
        ),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    command = [str(python), "-W", "ignore", str(ROOT / "bench" / "stock_mlflow.py"), str(plan)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _bare_database(conn: Connection) -> dict[str, float]:
    """Return milliseconds of one row written and committed, and of one indexed query that finds the same versions."""
    import psycopg2

    link = psycopg2.connect(host=conn.host, port=conn.port, user=conn.login, password=conn.password, dbname=conn.schema)
    cursor = link.cursor()
    cursor.execute("CREATE TABLE bare (n serial PRIMARY KEY, document text)")
    link.commit()

    def write() -> None:
        cursor.execute("INSERT INTO bare (document) VALUES (%s)", ("x" * 1000,))
        link.commit()

    def read() -> None:
        cursor.execute(
            "SELECT v.model, v.number FROM version v JOIN metric m USING (model, number) WHERE m.name = 'auc' AND "
            "m.split = 'test' AND m.slice = 'all' AND m.value >= %s AND v.dataset LIKE %s",
            (QUERY["auc"], f"{QUERY['dataset']}%"),
        )
        cursor.fetchall()

    found = {name: _milliseconds(write, TIMES) for name in ("promote", "register")}
    found["search"] = _milliseconds(read, SEARCHES)
    link.close()
    return found


def _bare_bucket(models: Registry) -> dict[str, float]:
    """Return milliseconds of one small object written, and read."""
    bucket = models.bucket
    write = _milliseconds(lambda: bucket.put(f"bare/{uuid.uuid4().hex}", b"x" * 1000), TIMES)
    bucket.put("bare/one", b"x" * 1000)
    return {"promote": write, "register": write, "search": _milliseconds(lambda: bucket.get("bare/one"), SEARCHES)}


@contextmanager
def _places(name: str) -> Iterator[tuple[Connection, Connection]]:
    """Yield databases for us and for MLflow, and a bucket, which are dropped in the end."""
    import psycopg2
    from minio import Minio

    conn, s3 = connection("amversion"), connection("s3")

    def execute(statement: str) -> None:
        link = psycopg2.connect(
            host=conn.host, port=conn.port, user=conn.login, password=conn.password, dbname=conn.schema
        )
        link.autocommit = True
        link.cursor().execute(statement)
        link.close()

    client = Minio(f"{s3.host}:{s3.port}", s3.login, s3.password, secure=False, region="us-east-1")
    client.make_bucket(name)
    for database in (name, f"{name}-mlflow"):
        execute(f'CREATE DATABASE "{database}"')
    try:
        yield replace(conn, schema=name), s3
    finally:
        for database in (name, f"{name}-mlflow"):
            execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        with ThreadPoolExecutor(8) as pool:
            found = [each.object_name for each in client.list_objects(name, recursive=True)]
            list(pool.map(lambda key: client.remove_object(name, key), found))
        client.remove_bucket(name)


def _milliseconds(work: Callable[[], object], times: int) -> float:
    return median(work, times) * 1000
