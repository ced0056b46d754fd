"""The loss to be expected without labels."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import REGISTRY

pytestmark = pytest.mark.ml


def told(metric: str) -> float | None:
    labels = {"model": "m", "version": "1", "metric": metric}
    return REGISTRY.get_sample_value("adin_estimated_loss", labels)


@pytest.mark.parametrize("metric", ["log_loss", "brier"])
def test_the_loss_of_right_probabilities_is_expected_and_only_the_newest_answers_count(metric: str) -> None:
    from adin.promotion.metrics import ROWS
    from adin.serving.watch import LossEstimate

    random = np.random.default_rng(1)
    p = random.uniform(0.05, 0.95, 40_000)
    label = (random.uniform(size=len(p)) < p).astype(float)
    estimate = LossEstimate("m", 1, metric, 20_000)
    estimate.see([], {"predictions": [0.5] * 19_999})
    assert told(metric) is None
    estimate.see([], {"predictions": [0.5] * 7})
    assert told(metric) == pytest.approx(np.log(2) if metric == "log_loss" else 0.25)
    for part in np.split(p, 8):
        estimate.see([], {"predictions": part.tolist()})
    assert told(metric) == pytest.approx(float(ROWS[metric](label[20_000:], p[20_000:]).mean()), rel=0.02)
    estimate.close()
    assert told(metric) is None
