"""The champion's loss by day, from the evidence that trainings leave in the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from adin.drift.concept import losses
from adin.models import Registry, registry
from adin.promotion.metrics import log_loss_rows
from model_facts import register

pytestmark = pytest.mark.flow(15)


def evidence(
    folder: Path, first: str, *, against: int | None, champion: float | None, challenger: float
) -> dict[str, Path]:
    """Write evidence as the training pipeline does: ten days of 20 rows, each model sure of one probability."""
    folder.mkdir()
    days = np.repeat(pd.date_range(first, periods=10).strftime("%Y-%m-%d"), 20)
    rows = {"day": days, "label": np.tile([0.0, 0.0, 0.0, 1.0], 50), "challenger": np.full(200, challenger)}
    rows |= {} if champion is None else {"champion": np.full(200, champion)}
    pd.DataFrame(rows).to_parquet(folder / "predictions.parquet")
    (folder / "evaluation.json").write_text(json.dumps({"outcome": "held", "against": against}))
    return {f"evidence/{path.name}": path for path in folder.iterdir()}


def loss(probability: float) -> float:
    """Return the mean logistic loss of one probability for one late row in four."""
    return float(log_loss_rows(np.array([0.0, 0.0, 0.0, 1.0]), np.full(4, probability)).mean())


def test_later_trainings_tell_what_the_champion_loses_the_newest_evidence_first(servers, edition, model, tmp_path):
    models: Registry = registry(edition, s3=servers.s3)
    made = [
        register(models, model, evidence(tmp_path / name, first, against=against, champion=old, challenger=new), name)
        for name, first, against, old, new in (
            ("one", "2013-01-01", None, None, 0.25),
            ("two", "2013-01-06", 1, 0.4, 0.2),
            ("three", "2013-01-11", 1, 0.6, 0.3),
            ("of another", "2013-02-01", 2, 0.9, 0.9),
        )
    ]
    found = losses(models, models.version(model, made[0]), "log_loss")
    assert found.versions == (1, 3, 2)
    assert [str(day) for day in found.judged["day"][[0, -1]]] == ["2013-01-01", "2013-01-10"]
    assert found.judged["loss"] / found.judged["rows"] == pytest.approx(np.full(10, loss(0.25)))
    # from the 11th on: what the newest saw counts; the second's days before are its own test days
    assert [str(day) for day in found.later["day"][[0, -1]]] == ["2013-01-11", "2013-01-20"]
    assert found.later["loss"] / found.later["rows"] == pytest.approx(np.full(10, loss(0.6)))
    assert found.challenger["loss"] / found.challenger["rows"] == pytest.approx(np.full(10, loss(0.3)))


def test_a_champion_without_evidence_has_no_known_loss(servers, edition, model, tmp_path):
    models = registry(edition, s3=servers.s3)
    (tmp_path / "model.joblib").write_bytes(b"x")
    number = register(models, model, {"model.joblib": tmp_path / "model.joblib"}, "bare")
    found = losses(models, models.version(model, number), "log_loss")
    assert not len(found.judged["day"]) and not len(found.later["day"])
