"""Boosted trees on the parking features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder


class OccupancyModel:
    """Share of spaces taken in 60 minutes.

    :param pipeline: fitted scikit-learn regressor over the feature columns.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return one share per row, shape ``(n,)``, float64; never below 0."""
        return np.maximum(self.pipeline.predict(frame), 0)


def fit(train: pd.DataFrame, label: pd.Series, params: dict[str, Any]) -> OccupancyModel:
    """Fit on the training rows.

    :param train: features only, one column per feature of the service.
    :param label: share of spaces taken 60 minutes later, per row.
    :param params: arguments of ``HistGradientBoostingRegressor``.
    """
    texts = list(train.select_dtypes(include=["object", "string"]).columns)
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1, dtype=np.float64
    )
    columns = make_column_transformer((encoder, texts), remainder="passthrough", verbose_feature_names_out=False)
    pipeline = make_pipeline(columns, HistGradientBoostingRegressor(random_state=7, **params))
    return OccupancyModel(pipeline.fit(train, label))
