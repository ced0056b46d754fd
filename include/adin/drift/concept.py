"""What the champion loses on rows it has not learned from, by day, from the evidence that trainings leave."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adin.models import ModelVersion, Registry
from adin.promotion.metrics import ROWS
from adin.promotion.statistics import by_day

#: Newest versions after the champion whose evidence is read.
_VERSIONS = 10
_EVALUATION, _PREDICTIONS = "evidence/evaluation.json", "evidence/predictions.parquet"


@dataclass(frozen=True)
class Losses:
    """Sums of the primary loss by day: arrays ``day``, ``loss`` and ``rows``.

    :param judged: of the champion, on the days by which it was judged itself.
    :param later: of the champion, on days after these, as later trainings measured it.
    :param challenger: of the newest of those later models, on the same rows.
    :param versions: the versions whose evidence this is.
    """

    judged: Mapping[str, Any]
    later: Mapping[str, Any]
    challenger: Mapping[str, Any]
    versions: tuple[int, ...]


def losses(models: Registry, champion: ModelVersion, metric: str) -> Losses:
    """Return the champion's losses by day: labels come with the next trainings, which judge both models by them."""
    own = _evidence(models, champion)
    judged = _sums(metric, own, "challenger") if own else _none()
    last = judged["day"][-1] if len(judged["day"]) else np.datetime64("1900-01-01")
    later, challenger, used = _none(), _none(), []
    known = [each for each in models.versions(champion.model) if each.number > champion.number]
    for version in sorted(known, key=lambda each: -each.number)[:_VERSIONS]:
        found = _evidence(models, version, against=champion.number)
        if not found:
            continue
        used.append(version.number)
        later = _merged(later, _sums(metric, found, "champion"), last)
        if len(used) == 1:
            challenger = _merged(_none(), _sums(metric, found, "challenger"), last)
    return Losses(judged, later, challenger, (champion.number, *used))


def _evidence(models: Registry, version: ModelVersion, against: int | None = None) -> dict[str, Any] | None:
    import pyarrow.parquet

    names = {file.name for file in version.manifest.files}
    if not {_EVALUATION, _PREDICTIONS} <= names:
        return None
    if against is not None:
        told = json.loads(models.read(version.model, version.number, _EVALUATION))
        if told["against"] != against:
            return None
    content = models.read(version.model, version.number, _PREDICTIONS)
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    return {name: table[name].to_numpy() for name in table.column_names if not name.startswith("__")}


def _sums(metric: str, evidence: Mapping[str, Any], who: str) -> dict[str, Any]:
    if who not in evidence or not len(evidence["label"]):
        return _none()
    loss = ROWS[metric](np.asarray(evidence["label"], float), np.asarray(evidence[who], float))
    days = np.asarray(evidence["day"], "datetime64[D]")
    sums = by_day(loss, loss, days)
    return {"day": np.unique(days), "loss": sums[:, 0], "rows": sums[:, 2]}


def _merged(newer: Mapping[str, Any], older: Mapping[str, Any], last: Any) -> dict[str, Any]:
    """Return the days after ``last`` of both; where both have a day the newer evidence counts."""
    chosen = (older["day"] > last) & ~np.isin(older["day"], newer["day"])
    both = {name: np.concatenate([newer[name], older[name][chosen]]) for name in newer}
    order = np.argsort(both["day"], kind="stable")
    return {name: values[order] for name, values in both.items()}


def _none() -> dict[str, Any]:
    return {"day": np.array([], "datetime64[D]"), "loss": np.array([]), "rows": np.array([])}
