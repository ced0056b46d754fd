"""A model whose answers can be computed by hand: the bill, times a factor, plus one if the till's takings are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


class Bill:
    """Total of the bread, times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return one amount per row."""
        known = frame["takings__amount"].notna().to_numpy(float)
        return frame["bill__total"].to_numpy(float) * self.factor + known


def fit(train: pd.DataFrame, label: pd.Series, params: dict[str, Any]) -> Bill:
    """Return the model; nothing is learned."""
    return Bill(params["factor"])
