"""Metrics of predictions, in NumPy alone: the same numbers in every environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from adin.errors import ConfigError

Array = Any  # a one-dimensional numpy array; numpy is not typed where the checks run

_SMALLEST = 1e-15


def log_loss_rows(label: Array, prediction: Array) -> Array:
    """Return the logistic loss of each row; probabilities are kept away from 0 and 1 by 1e-15."""
    p = np.clip(prediction, _SMALLEST, 1 - _SMALLEST)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))


def squared_rows(label: Array, prediction: Array) -> Array:
    """Return the squared error of each row."""
    return (prediction - label) ** 2


def absolute_rows(label: Array, prediction: Array) -> Array:
    """Return the absolute error of each row."""
    return np.abs(prediction - label)


#: Loss of each row for the metrics that are a mean over rows, or (rmse) the root of one.
ROWS: dict[str, Callable[[Array, Array], Array]] = {
    "log_loss": log_loss_rows,
    "brier": squared_rows,
    "mae": absolute_rows,
    "rmse": squared_rows,
}


def log_loss(label: Array, prediction: Array) -> float:
    """Return the mean logistic loss."""
    return float(np.mean(log_loss_rows(label, prediction)))


def brier(label: Array, prediction: Array) -> float:
    """Return the mean squared error of probabilities."""
    return float(np.mean(squared_rows(label, prediction)))


def mae(label: Array, prediction: Array) -> float:
    """Return the mean absolute error."""
    return float(np.mean(absolute_rows(label, prediction)))


def rmse(label: Array, prediction: Array) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean(squared_rows(label, prediction))))


def r2(label: Array, prediction: Array) -> float:
    """Return the share of the label's variance that is explained; NaN for a label that does not vary."""
    spread = float(np.mean((label - np.mean(label)) ** 2))
    return 1 - float(np.mean(squared_rows(label, prediction))) / spread if spread else float("nan")


def auc(label: Array, prediction: Array) -> float:
    """Return the share of (positive, negative) pairs in the right order, ties counting half; NaN without both."""
    positive = np.asarray(label) > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    _, place, count = np.unique(prediction, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # the mean rank of equal predictions
    return float((rank[place][positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def auc_rows(label: Array, prediction: Array) -> Array:
    """Return a loss of each row whose mean is 1 - AUC and whose spread is that of the AUC (DeLong's components).

    NaN without both kinds of rows.
    """
    positive = np.asarray(label) > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return np.full(len(positive), np.nan)
    below, beside = _ranks(prediction[positive], prediction[~positive])
    above, level = _ranks(-prediction[~positive], -prediction[positive])
    share = np.empty(len(positive))
    share[positive] = (below + beside / 2) / zeros  # negatives that a positive outranks
    share[~positive] = (above + level / 2) / ones
    area = share[positive].mean()
    weight = np.where(positive, len(positive) / ones, len(positive) / zeros)
    return 1 - area - weight * (share - area)


def _ranks(values: Array, others: Array) -> tuple[Array, Array]:
    """Return for each value how many of the others lie below it, and how many equal it."""
    others = np.sort(others)
    below = np.searchsorted(others, values, "left")
    return below, np.searchsorted(others, values, "right") - below


def calibration_error(label: Array, prediction: Array) -> float:
    """Return the mean distance of predicted and seen share over ten groups of equal size; NaN for fewer rows."""
    if len(label) < 10:
        return float("nan")
    groups = np.array_split(np.argsort(prediction, kind="stable"), 10)
    sizes = np.array([len(group) for group in groups])
    distances = [abs(np.mean(prediction[group]) - np.mean(label[group])) for group in groups]
    return float(np.average(distances, weights=sizes))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "log_loss": log_loss,
    "auc": auc,
    "brier": brier,
    "mae": mae,
    "rmse": rmse,
    "r2": r2,
    "calibration_error": calibration_error,
}
#: Metrics of which more is better.
HIGHER = {"auc", "r2"}
#: What a version of each task is measured by.
OF_TASK = {"binary": ("log_loss", "auc", "brier"), "regression": ("mae", "rmse", "r2")}
#: What a policy of each task may name; the others have no meaning for its labels.
FOR_TASK = {
    "binary": ("log_loss", "auc", "brier", "calibration_error", "mae", "rmse"),
    "regression": ("mae", "rmse", "r2"),
}


def metric(name: str) -> Callable[[Array, Array], float]:
    """Return a metric by name.

    :raises ConfigError: there is none of this name.
    """
    if name not in METRICS:
        raise ConfigError(f"There is no metric {name!r}.", f"Known metrics: {', '.join(METRICS)}.")
    return METRICS[name]


def evaluate(task: Literal["binary", "regression"], label: Array, prediction: Array) -> dict[str, float]:
    """Return the metrics of a task; NaN where one is not defined.

    :param label: the truth, one value a row.
    :param prediction: probability or estimate, one value a row.
    """
    label, prediction = np.asarray(label, float), np.asarray(prediction, float)
    return {name: METRICS[name](label, prediction) for name in OF_TASK[task]}


def by_slice(
    task: Literal["binary", "regression"],
    label: Array,
    prediction: Array,
    column: str,
    values: Sequence[Any] | Array,
    *,
    min_rows: int = 500,
) -> dict[str, dict[str, float]]:
    """Return the metrics of each part of the rows, ``{"carrier=UA": {..}}``, of parts with enough rows.

    :param values: the column's value, one a row.
    """
    label, prediction = np.asarray(label, float), np.asarray(prediction, float)
    names, place = np.unique(np.asarray([str(value) for value in values]), return_inverse=True)
    parts = ((name, place == n) for n, name in enumerate(names))
    return {
        f"{column}={name}": evaluate(task, label[rows], prediction[rows])
        for name, rows in parts
        if rows.sum() >= min_rows
    }
