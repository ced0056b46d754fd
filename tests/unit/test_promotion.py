"""The promotion gate: metrics, the interval over days, and every outcome."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from adin.errors import ConfigError
from adin.problem import Promotion
from adin.promotion import metrics
from adin.promotion.gate import Decision, by_day, decide, gain_interval

pytestmark = [pytest.mark.ml, pytest.mark.flow(14, 16)]

POLICY = Promotion(
    primary="log_loss",
    min_effect=0.002,
    absolute={"auc": (0.6, 0.95), "log_loss": (None, 0.69)},
    beat_baseline_by=0.01,
    min_days=10,
)


def test_metrics_are_those_computed_by_hand() -> None:
    label, prediction = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    by_hand = -(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4
    assert metrics.log_loss(label, prediction) == pytest.approx(by_hand)
    assert metrics.auc(label, prediction) == 0.75
    assert metrics.brier(label, prediction) == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert metrics.mae(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == 1.5
    assert metrics.rmse(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == pytest.approx(math.sqrt(2.5))


def test_a_certain_and_wrong_prediction_costs_much_but_not_infinitely() -> None:
    assert 30 < metrics.log_loss(np.array([1.0]), np.array([0.0])) < 40


def test_equal_predictions_count_half_in_the_auc() -> None:
    assert metrics.auc(np.array([0, 1, 0, 1]), np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert math.isnan(metrics.auc(np.array([1, 1]), np.array([0.1, 0.2])))


def test_metrics_agree_with_scikit_learn() -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 5000)
    prediction = np.round(rng.random(5000) * 0.7 + label * 0.2, 2)  # rounded: many ties
    assert metrics.auc(label, prediction) == pytest.approx(sk.roc_auc_score(label, prediction), abs=1e-12)
    assert metrics.log_loss(label, prediction) == pytest.approx(sk.log_loss(label, prediction), abs=1e-12)
    assert metrics.brier(label, prediction) == pytest.approx(sk.brier_score_loss(label, prediction), abs=1e-12)
    assert metrics.mae(label, prediction) == pytest.approx(sk.mean_absolute_error(label, prediction), abs=1e-12)
    assert metrics.r2(label, prediction) == pytest.approx(sk.r2_score(label, prediction), abs=1e-12)
    assert metrics.rmse(label, prediction) == pytest.approx(sk.root_mean_squared_error(label, prediction), abs=1e-12)


def test_slices_with_few_rows_are_left_out() -> None:
    label, prediction = np.tile([0, 1], 300), np.tile([0.2, 0.7], 300)
    found = metrics.by_slice("binary", label, prediction, "carrier", ["UA"] * 500 + ["HA"] * 100)
    assert list(found) == ["carrier=UA"]
    assert found["carrier=UA"]["auc"] == 1.0


def clustered(rng: Any, days: int = 30, rows: int = 40) -> tuple[Any, Any]:
    """Row losses of two equally good models whose difference has a part common to all rows of a day."""
    day = np.repeat(np.arange(days), rows)
    difference = rng.normal(0, 0.05, days)[day] + rng.normal(0, 0.05, len(day))
    return difference, day


@pytest.mark.parametrize("days", [12, 40])
def test_of_equal_models_the_gate_calls_about_one_in_twenty_different(days: int) -> None:
    rng = np.random.default_rng(11)
    rejected = by_row = 0
    for _ in range(600):
        difference, day = clustered(rng, days)
        base = np.full(len(day), 0.5)
        _, (low, high) = gain_interval(by_day(base + difference / 2, base - difference / 2, day))
        rejected += low > 0 or high < 0
        by_row += abs(difference.mean()) > 1.96 * difference.std() / math.sqrt(len(difference))
    assert 0.03 <= rejected / 600 <= 0.07
    assert by_row / 600 > 0.4  # what the day is for: by row the same data look "different" nearly every second time


def test_the_interval_of_a_root_mean_square_covers_the_gain_known_beforehand() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        day = np.repeat(np.arange(20), 30)
        old, new = rng.normal(0, 2.0, len(day)), rng.normal(0, 1.9, len(day))
        _, (low, high) = gain_interval(by_day(old**2, new**2, day), root=True)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / 300 <= 0.985


def example(days: int = 30, rows: int = 200, seed: int = 1) -> dict[str, Any]:
    """Labels, and the probabilities they were drawn from: no model can do better than those."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    truth = 1 / (1 + np.exp(-(rng.normal(0, 0.5, days)[day] + rng.normal(-0.5, 1.2, len(day)))))
    return {"label": (rng.random(len(day)) < truth).astype(int), "truth": truth, "days": day}


def judge(policy: Promotion = POLICY, *, challenger: Any, champion: Any, of: dict[str, Any]) -> Decision:
    label = of["label"]
    return decide(
        policy, label=label, challenger=challenger, champion=champion, days=of["days"], baseline=float(label.mean())
    )


def blurred(of: dict[str, Any], share: float) -> Any:
    return of["truth"] * (1 - share) + of["label"].mean() * share


def test_a_first_model_within_bounds_and_above_the_baseline_is_promoted() -> None:
    data = example()
    decision = judge(challenger=data["truth"], champion=None, of=data)
    assert (decision.outcome, decision.gain, decision.interval) == ("promoted", None, None)
    assert all(check.ok for check in decision.checks)


def test_a_first_model_below_a_bound_is_rejected_and_the_bound_named() -> None:
    data = example()
    decision = judge(challenger=1 - data["truth"], champion=None, of=data)
    assert decision.outcome == "rejected"
    assert "auc" in decision.reason
    assert "baseline" in decision.reason


def test_a_first_model_too_good_to_be_true_is_rejected() -> None:
    data = example()
    leaked = np.where(data["label"] == 1, 0.9, 0.1)
    assert judge(challenger=leaked, champion=None, of=data).outcome == "rejected"


def test_a_first_model_no_better_than_the_training_mean_is_rejected() -> None:
    data = example()
    policy = POLICY.model_copy(update={"absolute": {}})
    decision = judge(policy, challenger=blurred(data, 0.99), champion=None, of=data)
    assert decision.outcome == "rejected"
    assert [check.name for check in decision.checks if not check.ok] == ["baseline"]


def test_a_clearly_better_challenger_is_promoted() -> None:
    data = example()
    decision = judge(challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert decision.outcome == "promoted"
    assert decision.gain is not None and decision.interval is not None
    assert 0 < decision.interval[0] < decision.gain < decision.interval[1]


def test_a_challenger_like_the_champion_is_held() -> None:
    data = example()
    assert judge(challenger=data["truth"], champion=data["truth"], of=data).outcome == "held"
    noise = np.random.default_rng(2).normal(0, 0.01, len(data["truth"]))
    other = np.clip(data["truth"] + noise, 0.01, 0.99)
    assert judge(challenger=other, champion=blurred(data, 0.02), of=data).outcome == "held"


def test_a_gain_that_is_sure_but_too_small_for_a_swap_is_held() -> None:
    data = example()
    policy = POLICY.model_copy(update={"min_effect": 0.2})
    assert judge(policy, challenger=data["truth"], champion=blurred(data, 0.6), of=data).outcome == "held"


def test_a_gain_carried_by_a_few_days_is_held() -> None:
    data = example()
    better_on = data["days"] < 2
    champion = np.where(better_on, 1 - data["truth"], data["truth"])
    decision = judge(challenger=data["truth"], champion=champion, of=data)
    assert decision.gain is not None and decision.gain > POLICY.min_effect
    assert decision.outcome == "held"


def test_a_clearly_worse_challenger_is_rejected() -> None:
    data = example()
    policy = POLICY.model_copy(update={"absolute": {}})
    assert judge(policy, challenger=blurred(data, 0.6), champion=data["truth"], of=data).outcome == "rejected"


@pytest.mark.parametrize("days", [1, 2, 9])
def test_too_few_days_are_held_however_good_the_challenger(days: int) -> None:
    data = example(days=days, rows=2000)
    decision = judge(challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert decision.outcome == "held"
    assert "days" in decision.reason
    json.dumps(decision.evidence, allow_nan=False)


def test_too_few_days_never_reject_a_challenger_as_worse() -> None:
    data = example(days=5, rows=2000)
    policy = POLICY.model_copy(update={"absolute": {}, "beat_baseline_by": -1})
    assert judge(policy, challenger=blurred(data, 0.6), champion=data["truth"], of=data).outcome == "held"


def test_a_metric_that_is_not_defined_holds() -> None:
    data = example()
    data["label"] = np.zeros_like(data["label"])
    policy = POLICY.model_copy(update={"beat_baseline_by": -10})
    decision = judge(policy, challenger=data["truth"], champion=None, of=data)
    assert decision.outcome == "held"
    assert "auc: not defined" in decision.reason


@pytest.mark.parametrize("who", ["challenger", "champion"])
def test_missing_predictions_make_the_evidence_invalid(who: str) -> None:
    data = example()
    models = {"challenger": data["truth"].copy(), "champion": blurred(data, 0.6)}
    models[who][7] = float("nan")
    decision = judge(**models, of=data)
    assert decision.outcome == "invalid"
    assert f"1 of 6000 in {who}" in decision.reason


def test_predictions_for_other_rows_make_the_evidence_invalid() -> None:
    data = example()
    assert judge(challenger=data["truth"][:-1], champion=None, of=data).outcome == "invalid"
    none = {name: value[:0] for name, value in data.items()}
    decision = decide(
        POLICY, label=none["label"], challenger=none["truth"], champion=None, days=none["days"], baseline=0.5
    )
    assert decision.outcome == "invalid"


def test_the_same_evidence_gives_the_same_decision() -> None:
    data = example()
    first, second = (judge(challenger=data["truth"], champion=blurred(data, 0.3), of=data) for _ in range(2))
    assert first == second


def test_a_policy_that_compares_by_auc_is_refused() -> None:
    data = example()
    policy = POLICY.model_copy(update={"primary": "auc"})
    with pytest.raises(ConfigError, match="log_loss"):
        judge(policy, challenger=data["truth"], champion=None, of=data)


def test_a_regression_must_be_better_than_the_share_of_its_naive_baseline() -> None:
    rng = np.random.default_rng(5)
    label = rng.random(2000)
    naive, good, poor = (label + rng.normal(0, spread, 2000) for spread in (0.10, 0.03, 0.06))
    policy = Promotion(primary="mae", absolute={"r2": (0.5, None)}, most_of_baseline=0.45)
    days = np.arange(2000) // 100

    def judged(guess: Any) -> Decision:
        return decide(policy, label=label, challenger=guess, champion=None, days=days, baseline=naive)

    assert judged(good).outcome == "promoted"
    refused = judged(poor)
    assert refused.outcome == "rejected"
    assert [check.name for check in refused.checks if not check.ok] == ["share of the baseline"]


def test_the_page_of_a_regression_shows_predicted_and_seen_on_the_labels_scale() -> None:
    from adin.promotion import report

    label = np.linspace(5, 25, 100)
    columns = {"day": np.arange(100) // 10, "label": label, "challenger": label + 0.1}
    decision = decide(
        Promotion(primary="mae"), label=label, challenger=label + 0.1, champion=None, days=columns["day"], baseline=15.0
    )
    told = {"outcome": decision.outcome, "reason": decision.reason, "against": None, "evidence": decision.evidence}
    page = report.page("made", told, columns)
    assert "Drift" not in page
    drift = {"until": "2013-03-01", "alarms": [["label", "late", "label_psi"]]}
    assert "before 2013-03-01: late (label)." in report.page("made", told | {"drift": drift}, columns)
    assert "Predicted and seen, means of ten groups" in page
    assert "predicted 5" in page and ">25.1</text>" in page
