"""The promotion policy beyond the primary metric: guardrails, correction, refresh, budget; tested under the null."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from adin.errors import ConfigError
from adin.problem import Guardrail, Promotion, Refresh
from adin.promotion import metrics
from adin.promotion.gate import Decision, decide
from adin.promotion.statistics import adjusted, by_day, gain_interval, worse_p

pytestmark = [pytest.mark.ml, pytest.mark.flow(14)]

TRIALS = 600


def days_of(rng: Any, days: int, rows: int) -> tuple[Any, Any, Any]:
    """Day, truth and label of rows whose days differ."""
    day = np.repeat(np.arange(days), rows)
    truth = 1 / (1 + np.exp(-(rng.normal(0, 0.6, days)[day] + rng.normal(-0.5, 1.0, len(day)))))
    return day, truth, (rng.random(len(day)) < truth).astype(float)


def shaken(rng: Any, truth: Any, day: Any, by_day: float = 0.4, by_row: float = 0.4) -> Any:
    """A model's probabilities: the truth, disturbed for whole days and for rows."""
    days = day.max() + 1
    logit = np.log(truth / (1 - truth)) + rng.normal(0, by_day, days)[day] + rng.normal(0, by_row, len(day))
    return 1 / (1 + np.exp(-logit))


def test_the_rows_of_an_auc_have_its_mean() -> None:
    rng = np.random.default_rng(1)
    label, guess = rng.integers(0, 2, 500), np.round(rng.random(500), 1)  # rounded: many ties
    assert 1 - metrics.auc_rows(label, guess).mean() == pytest.approx(metrics.auc(label, guess), abs=1e-12)
    assert np.isnan(metrics.auc_rows(np.ones(5), guess[:5])).all()


def test_the_calibration_error_of_shares_that_are_right_is_small_and_of_shifted_ones_the_shift() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.2, 0.6, 50_000)
    label = (rng.random(50_000) < truth).astype(float)
    assert metrics.calibration_error(label, truth) < 0.02
    assert metrics.calibration_error(label, truth + 0.2) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", ["log_loss", "auc"])
def test_of_equal_models_swapped_by_day_about_one_in_twenty_is_called_different(name: str) -> None:
    rng = np.random.default_rng(7)
    day, truth, label = days_of(rng, 30, 60)
    models = [shaken(rng, truth, day) for _ in range(2)]
    rows = metrics.auc_rows if name == "auc" else metrics.log_loss_rows
    losses = [rows(label, model) for model in models]
    called = 0
    for _ in range(TRIALS):
        swapped = rng.random(30)[day] < 0.5
        one, other = np.where(swapped, losses[1], losses[0]), np.where(swapped, losses[0], losses[1])
        _, (low, high) = gain_interval(by_day(one, other, day))
        called += low > 0 or high < 0
    assert 0.03 <= called / TRIALS <= 0.07


def test_an_auc_of_fresh_days_is_called_worse_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(8)
    called = 0
    for _ in range(TRIALS):
        day, truth, label = days_of(rng, 25, 40)
        one, other = (metrics.auc_rows(label, shaken(rng, truth, day)) for _ in range(2))
        _, p = worse_p(by_day(one, other, day))
        called += p < 0.05
    assert 0.03 <= called / TRIALS <= 0.07


@pytest.mark.parametrize("how", ["holm", "bonferroni"])
def test_of_many_slices_without_harm_any_is_called_worse_no_more_often_than_one_alone(how: Any) -> None:
    rng = np.random.default_rng(9)
    corrected = plain = 0
    for _ in range(TRIALS):
        found = []
        for _ in range(12):
            day = np.repeat(np.arange(25), 4)
            difference = rng.normal(0, 0.05, 25)[day] + rng.normal(0, 0.05, len(day))
            sums = by_day(0.5 + difference / 2, 0.5 - difference / 2, day)
            found.append(worse_p(sums)[1])
        plain += min(found) < 0.05
        corrected += min(adjusted(found, how)) < 0.05
    assert plain / TRIALS > 0.3  # what the correction is for
    assert corrected / TRIALS <= 0.07


def test_holm_corrects_by_hand() -> None:
    assert adjusted([0.01, 0.04, 0.03], "holm") == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([0.01, 0.4, 0.03], "bonferroni") == pytest.approx([0.03, 1, 0.09])
    assert adjusted([], "holm") == []


# -- decisions ------------------------------------------------------------------------------------------------------


def world(seed: int = 1, days: int = 40, rows: int = 150) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    day, truth, label = days_of(rng, days, rows)
    carrier = np.tile(["UA", "AA", "DL"], len(day))[: len(day)]
    return {"day": day, "truth": truth, "label": label, "carrier": carrier}


def blurred(of: dict[str, Any], share: float) -> Any:
    return of["truth"] * (1 - share) + of["label"].mean() * share


def judge(policy: Promotion, *, challenger: Any, champion: Any, of: dict[str, Any], **more: Any) -> Decision:
    return decide(
        policy,
        label=of["label"],
        challenger=challenger,
        champion=champion,
        days=of["day"],
        baseline=float(of["label"].mean()),
        slices={"carrier": of["carrier"]},
        **more,
    )


BY_CARRIER = Guardrail(metric="log_loss", no_worse_than=0.01, slices=["carrier"], min_rows=500)
POLICY = Promotion(
    primary="log_loss",
    min_effect=0.002,
    guardrails=[Guardrail(metric="auc", no_worse_than=0.005), BY_CARRIER],
)


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.ok]


def test_a_better_model_that_harms_nobody_passes_every_guardrail() -> None:
    data = world()
    decision = judge(POLICY, challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert decision.outcome == "promoted"
    told = [rail["name"] for rail in decision.evidence["guardrails"]]
    assert told == ["auc", "log_loss of carrier=AA", "log_loss of carrier=DL", "log_loss of carrier=UA"]
    assert decision.evidence["policy_version"] == 1
    json.dumps(decision.evidence, allow_nan=False)


def test_a_better_model_that_harms_one_slice_is_rejected_and_the_slice_named() -> None:
    data = world()
    bad = data["carrier"] == "DL"
    challenger = np.where(bad, blurred(data, 0.9), data["truth"])
    champion = np.where(bad, data["truth"], blurred(data, 0.9))
    decision = judge(POLICY, challenger=challenger, champion=champion, of=data)
    assert decision.gain is not None and decision.gain > POLICY.min_effect
    assert (decision.outcome, failed(decision)) == ("rejected", ["log_loss of carrier=DL"])


def test_a_metric_over_all_rows_that_loses_more_than_its_margin_holds_or_rejects() -> None:
    data = world()
    flat = np.where(data["truth"] > 0.5, 0.7, 0.2)  # well calibrated steps, but they rank badly
    champion = np.clip(data["truth"] ** 3, 0.001, 0.999)  # ranks perfectly, wrong probabilities
    decision = judge(POLICY, challenger=flat, champion=champion, of=data)
    assert decision.gain is not None and decision.gain > POLICY.min_effect
    assert "auc" in failed(decision) and decision.outcome == "rejected"


def test_a_guardrail_that_is_not_defined_holds() -> None:
    data = world()
    data["label"] = np.where(data["carrier"] == "UA", 0.0, data["label"])
    rail = Guardrail(metric="auc", no_worse_than=0.005, slices=["carrier"])
    policy = POLICY.model_copy(update={"guardrails": [rail], "beat_baseline_by": -1})
    truth = np.where(data["carrier"] == "UA", 0.01, data["truth"])
    decision = judge(policy, challenger=truth, champion=blurred(data, 0.6), of=data)
    assert (decision.outcome, failed(decision)) == ("held", ["auc of carrier=UA"])


def test_a_slice_too_small_to_tell_is_left_out() -> None:
    data = world()
    few = (data["carrier"] == "UA") & (np.arange(len(data["carrier"])) >= 1000)
    data["carrier"] = np.where(few, "AA", data["carrier"])
    decision = judge(POLICY, challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert decision.outcome == "promoted"
    told = [rail["name"] for rail in decision.evidence["guardrails"]]
    assert told == ["auc", "log_loss of carrier=AA", "log_loss of carrier=DL"]


def test_a_guardrail_of_which_no_slice_is_large_enough_holds() -> None:
    data = world(days=40, rows=9)
    decision = judge(POLICY, challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert (decision.outcome, failed(decision)) == ("held", ["log_loss by carrier"])


def test_an_equal_model_replaces_an_old_champion_but_not_a_young_one() -> None:
    data = world()
    rng = np.random.default_rng(3)
    equal = [shaken(rng, data["truth"], data["day"], 0.02, 0.05) for _ in range(2)]
    policy = Promotion(primary="log_loss", min_effect=0.01, refresh=Refresh(margin=0.01, after=timedelta(days=30)))
    told = {"challenger": equal[0], "champion": equal[1], "of": data}
    assert judge(policy, **told, champion_age=timedelta(days=29)).outcome == "held"
    assert judge(policy, **told, champion_age=timedelta(days=30)).outcome == "promoted"
    assert judge(policy, **told).outcome == "held"


def test_a_worse_model_does_not_replace_an_old_champion() -> None:
    data = world()
    policy = Promotion(primary="log_loss", refresh=Refresh(margin=0.01, after=timedelta(days=30)))
    told = {"challenger": blurred(data, 0.6), "champion": data["truth"], "of": data}
    assert judge(policy, **told, champion_age=timedelta(days=90)).outcome == "rejected"


def test_a_test_span_that_has_judged_enough_models_judges_no_more() -> None:
    data = world()
    told = {"challenger": data["truth"], "champion": blurred(data, 0.6), "of": data}
    assert judge(POLICY, **told, uses=19).outcome == "promoted"
    decision = judge(POLICY, **told, uses=20)
    assert (decision.outcome, failed(decision)) == ("held", ["test set"])


@pytest.mark.parametrize(("field", "name"), [("min_rows", "rows"), ("min_positives", "both labels")])
def test_too_little_evidence_holds(field: str, name: str) -> None:
    data = world()
    policy = POLICY.model_copy(update={field: 10**6})
    decision = judge(policy, challenger=data["truth"], champion=blurred(data, 0.6), of=data)
    assert (decision.outcome, failed(decision)) == ("held", [name])


@pytest.mark.parametrize(
    "policy",
    [
        Promotion(primary="log_loss", absolute={"accuracy": (0.5, None)}),
        Promotion(primary="log_loss", guardrails=[Guardrail(metric="accuracy", no_worse_than=0)]),
        Promotion(primary="log_loss", guardrails=[Guardrail(metric="auc", no_worse_than=0, slices=["airport"])]),
    ],
)
def test_a_policy_that_names_what_is_not_there_is_refused(policy: Promotion) -> None:
    data = world()
    with pytest.raises(ConfigError, match=r"accuracy|airport"):
        judge(policy, challenger=data["truth"], champion=blurred(data, 0.6), of=data)
