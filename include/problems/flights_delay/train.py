"""Boosted trees on the flights features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder


class DelayModel:
    """P(arrives 15 or more minutes late).

    :param pipeline: fitted scikit-learn classifier over the feature columns.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return one probability per row, shape ``(n,)``, float64."""
        return self.pipeline.predict_proba(frame)[:, 1]


def fit(train: pd.DataFrame, label: pd.Series, params: dict[str, Any]) -> DelayModel:
    """Fit on the training rows.

    :param train: features only, one column per feature of the service.
    :param label: 0 or 1 per row.
    :param params: arguments of ``HistGradientBoostingClassifier``.
    """
    texts = list(train.select_dtypes(include=["object", "string"]).columns)
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1, dtype=np.float64
    )
    columns = make_column_transformer((encoder, texts), remainder="passthrough", verbose_feature_names_out=False)
    pipeline = make_pipeline(columns, HistGradientBoostingClassifier(random_state=7, **params))
    return DelayModel(pipeline.fit(train, label))
