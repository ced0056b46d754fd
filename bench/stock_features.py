"""What Feast's own SDK reads for a request: both the stock transformer and the bare model server are fed by it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from adin.features import repo

PROBLEM = "flights_delay"


def features(store: Any, requests: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the rows of features of requests as Feast's SDK reads them.

    The on-demand features are computed beside it: Feast takes a key that is also a request value for a request value
    only, and then misses the key.
    """
    service = repo.service("flights", PROBLEM)
    # on-demand features read values which the service itself does not name
    names = [f"{view.name}:{name}" for view in service.views for name, _ in view.features]
    rows = pd.DataFrame(requests)
    rows["scheduled_departure"] = pd.to_datetime(rows["scheduled_departure"], utc=True)
    rows["prediction_time"] = rows["scheduled_departure"] - pd.Timedelta(minutes=60)
    keys = rows[list(service.keys)].to_dict("records")
    found = store.get_online_features(names, keys, full_feature_names=True).to_df()
    for name in rows.columns.difference(found.columns):
        found[name] = rows[name]
    frame = repo.with_on_demand(found, service.on_demand)[list(service.columns)].astype(object)
    return list(frame.where(frame.notna(), None).to_numpy().tolist())
