"""What the answers that were really given cost, once their labels are known.

The model server keeps a share of its answers where ``serving.watch.log`` asks for it; the newest dataset version in
ClickHouse has the labels. Both are joined in the engine, by entity keys and event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from adin import datasets
from adin.connections import Connection
from adin.datasets.clickhouse import identifier, literal
from adin.datasets.lake import Lake
from adin.drift.tables import SERVED, Store, store
from adin.errors import DataError
from adin.features import repo
from adin.problem import Problem, problem
from adin.promotion.metrics import ROWS
from adin.run_key import run_key


class Served(NamedTuple):
    """One answer.

    :param entity: values of the entity keys, in the order of the feature service, as text.
    :param event: time of the event, microseconds since 1970.
    """

    version: int
    entity: tuple[str, ...]
    event: int
    prediction: float


def keep(name: str, answers: Sequence[Served], conn: Connection | None = None) -> None:
    """Write answers to ClickHouse, with the present time; :param name: problem."""
    now = int(datetime.now(UTC).timestamp() * 1e6)
    rows = (
        f"({literal(name)}, {each.version}, [{', '.join(map(literal, each.entity))}], {_time(each.event)}, "
        f"{each.prediction!r}, {_time(now)})"
        for each in answers
    )
    with store(conn) as tables:
        tables.client.command(f"INSERT INTO {tables.table(SERVED)} VALUES {', '.join(rows)}")


def losses(name: str, *, days: int = 30, lake: Lake | None = None) -> list[dict[str, Any]]:
    """Return what the kept answers of the newest days cost, by day of the event and version.

    :param days: so many, before the end of the newest dataset version.
    :returns: ``day``, ``version``, ``rows`` with a label, ``metric`` and ``loss``, its mean over these rows.
    :raises NotFoundError: there is no dataset version yet.
    :raises DataError: the dataset has no column for a key.
    """
    spec, lake = problem(name), lake or Lake()
    newest = datasets.newest(name, lake=lake)
    datasets.load_clickhouse(name, newest.commit, run_key("drift", newest.commit, "load"), lake=lake)
    with store() as tables:
        return measured(tables, spec, newest.commit, newest.window.end - timedelta(days=days))


def measured(tables: Store, spec: Problem, commit: str, since: datetime) -> list[dict[str, Any]]:
    """Return what kept answers cost by the labels of a dataset version in ClickHouse; see :func:`losses`.

    :param since: earliest event.
    """
    keys = repo.service(spec.domain, spec.features).keys
    if lacks := [key for key in (*keys, spec.event_time) if key not in tables.columns(spec.name)]:
        raise DataError(f"The dataset of {spec.name} has no {', '.join(lacks)}.", "Build it anew: train the problem.")
    entity = ", ".join(f"toString(data.{identifier(key)})" for key in keys)
    found = tables.client.query_df(
        f"SELECT toDate(served.event) AS day, served.version AS version, served.prediction AS prediction, "
        f"toFloat64(data.{identifier(spec.label.column)}) AS label "
        f"FROM {tables.table(SERVED)} AS served INNER JOIN {tables.table(spec.name)} AS data "
        f"ON served.entity = [{entity}] AND served.event = data.{identifier(spec.event_time)} "
        f"WHERE served.problem = {literal(spec.name)} AND data._commit = {literal(commit)} "
        f"AND served.event >= {_time(int(since.timestamp() * 1e6))}"
    )
    return _by_day(found, _metric(spec))


def _metric(spec: Problem) -> str:
    """Return the primary metric, or where that is no mean over rows, the usual one of the task."""
    if spec.promotion.primary in ROWS:
        return spec.promotion.primary
    return "log_loss" if spec.task == "binary" else "mae"


def _by_day(found: Any, metric: str) -> list[dict[str, Any]]:
    if not len(found):
        return []
    day, version = (np.asarray(found[name]) for name in ("day", "version"))
    loss = ROWS[metric](np.asarray(found["label"], float), np.asarray(found["prediction"], float))
    told = []
    for each in np.unique(day):
        for number in np.unique(version[day == each]):
            chosen = (day == each) & (version == number)
            mean = float(loss[chosen].mean())
            facts = {"day": str(each)[:10], "version": int(number), "rows": int(chosen.sum()), "metric": metric}
            told.append(facts | {"loss": mean**0.5 if metric == "rmse" else mean})
    return told


def _time(micros: int) -> str:
    return f"fromUnixTimestamp64Micro({micros}, 'UTC')"
