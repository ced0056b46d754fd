"""Runs in the ML environment: train the parking problem on a training set and measure it, once and week by week."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from adin.models import artifact
from adin.problem import problem
from adin.promotion import metrics


def main(path: str) -> None:
    """Print the numbers as JSON."""
    spec = problem("parking_occupancy")
    rows = pd.read_parquet(Path(path)).sort_values([spec.event_time, "park"]).reset_index(drop=True)
    features = [name for name in rows if "__" in name]
    train = artifact.code(spec.code)

    def fitted(seen: pd.DataFrame):
        return train.fit(seen[features], seen[spec.label.column], dict(spec.train.params))

    def mae(model, test: pd.DataFrame) -> float:
        return metrics.mae(test[spec.label.column].to_numpy(), model.predict(test[features]))

    test = rows[rows["split"] == "test"]
    model = fitted(rows[rows["split"] == "train"])
    label = test[spec.label.column].to_numpy()
    told = metrics.evaluate("regression", label, model.predict(test[features]))
    told["persistence"] = metrics.mae(label, test["recent__rate"].to_numpy(float))
    # the replay: a model of the first three weeks, against one trained anew each Monday on all that was known then
    at = pd.to_datetime(rows[spec.event_time], utc=True)
    first = pd.Timestamp("2016-10-25", tz="UTC")
    old = fitted(rows[at < first])
    weeks = []
    for start in pd.date_range("2016-11-07", "2016-12-12", freq="7D", tz="UTC"):
        known, week = rows[at < start - spec.label.known_after], rows[(at >= start) & (at < start + pd.Timedelta("7D"))]
        weeks.append({"week": f"{start:%Y-%m-%d}", "kept": mae(old, week), "anew": mae(fitted(known), week)})
    told["weeks"] = weeks
    told["rows"] = rows["split"].value_counts().to_dict()
    print(json.dumps(told, default=np.ndarray.item))


if __name__ == "__main__":
    main(sys.argv[1])
