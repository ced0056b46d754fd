"""MLflow's model registry as its documents show it; run by bench/registry.py in an environment of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

DATABASE, ASKED = os.environ["BENCH_DATABASE"], json.loads(os.environ["BENCH_ASKED"])


def client() -> MlflowClient:
    """Return a client that works on the database itself."""
    return MlflowClient(tracking_uri=DATABASE, registry_uri=DATABASE)


def main() -> None:
    """Fill, measure, print one line of JSON."""
    plan: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    store = client()
    for name in sorted({each["model"] for each in plan}):
        store.create_registered_model(name)
    for each in plan:
        tags = {"dataset": each["dataset"], "auc": str(each["auc"])}
        store.create_model_version(each["model"], "s3://bench/model", tags=tags)
    numbers = iter(range(1, len(plan)))

    def promote() -> None:
        store.set_registered_model_alias("model_00", "champion", str(next(numbers)))

    def register() -> None:
        store.create_model_version("model_01", "s3://bench/model", tags={"dataset": "c0ffee", "auc": "0.7"})

    found = {
        "found": sorted(search(store)),
        "promote": median(promote, ASKED["times"]),
        "register": median(register, ASKED["times"]),
        "search": median(lambda: search(store), ASKED["searches"]),
        "lost": lost(),
    }
    print(json.dumps(found))  # noqa: T201


def search(store: MlflowClient) -> list[list[Any]]:
    """Return the versions asked for: by tag in the database, by number here."""
    found, page = [], None
    while True:
        wanted = f"tags.dataset LIKE '{ASKED['query']['dataset']}%'"
        versions = store.search_model_versions(wanted, max_results=1000, page_token=page)
        found += [[v.name, int(v.version)] for v in versions if float(v.tags["auc"]) >= ASKED["query"]["auc"]]
        page = versions.token
        if not page:
            return found


def lost() -> int:
    """Let writers promote at the same time, each to the version after the champion; return what got lost."""
    client().set_registered_model_alias("model_02", "champion", "1")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(ASKED["writers"])
    writers = [context.Process(target=write, args=(barrier,)) for _ in range(ASKED["writers"])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    champion = int(client().get_model_version_by_alias("model_02", "champion").version)
    return int(ASKED["writers"] * ASKED["share"] - (champion - 1))


def write(barrier: Any) -> None:
    """Promote again and again."""
    store = client()
    store.get_model_version_by_alias("model_02", "champion")
    barrier.wait()
    for _ in range(ASKED["share"]):
        champion = int(store.get_model_version_by_alias("model_02", "champion").version)
        store.set_registered_model_alias("model_02", "champion", str(champion + 1))


def median(work: Callable[[], object], times: int) -> float:
    """Return the median of a number of calls, in milliseconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


if __name__ == "__main__":
    main()
