"""The gate over a year of flights: each month a new model against one that has learned only January to March.

``.venv-ml/bin/python -m bench.months`` prints what the gate decides, and what a test by row would have been sure of. No
server is needed: features are made here, in pandas, from the demo's data.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from adin.commands import output
from adin.problem import Promotion, problem
from adin.promotion import metrics
from adin.promotion.gate import decide
from adin.stack import demo_data

PROBLEM = "flights_delay"
_ASKED = pd.Timedelta(minutes=60)


def main() -> None:
    """Print the table."""
    output.table(["month", "AUC old", "new", "gain", "by row", "by day", "decision"], replay())


def replay(months: Iterable[int] = range(5, 13)) -> list[tuple[Any, ...]]:
    """Return the table, a row a month."""
    rows = features(demo_data.tables("flights"))
    module = _train_code()
    policy = Promotion(primary="log_loss", min_effect=0.002)
    names = [name for name in rows if name not in ("at", "late")]
    first = rows["at"].dt.month
    old = module.fit(rows[first <= 3][names], rows[first <= 3]["late"], {"learning_rate": 0.08, "max_iter": 150})
    told = []
    for month in months:
        output.step(f"month {month}")
        seen, test = rows[first < month], rows[first == month]
        new = module.fit(seen[names], seen["late"], {"learning_rate": 0.08, "max_iter": 150})
        told.append(
            (f"2013-{month:02d}", *_judged(policy, test, old.predict(test[names]), new.predict(test[names]), seen))
        )
    return told


def _judged(policy: Promotion, test: pd.DataFrame, old: Any, new: Any, seen: pd.DataFrame) -> tuple[Any, ...]:
    label = test["late"].to_numpy(float)
    decision = decide(
        policy,
        label=label,
        challenger=new,
        champion=old,
        days=test["at"].dt.strftime("%Y-%m-%d").to_numpy(),
        baseline=float(seen["late"].mean()),
    )
    gains = metrics.log_loss_rows(label, old) - metrics.log_loss_rows(label, new)
    half = 1.96 * gains.std(ddof=1) / np.sqrt(len(gains))
    low, high = decision.interval or (np.nan, np.nan)
    return (
        f"{metrics.auc(label, old):.4f}",
        f"{metrics.auc(label, new):.4f}",
        f"{gains.mean():.4f}",
        f"[{gains.mean() - half:.4f}, {gains.mean() + half:.4f}]",
        f"[{low:.4f}, {high:.4f}]",
        decision.outcome,
    )


def features(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row a flight: what was known an hour before its scheduled departure, and whether it came late."""
    flown = raw["arrivals"].dropna(subset=["arr_delay"]).copy()
    flown["at"] = flown["scheduled_departure"]
    flown["asked"] = flown["at"] - _ASKED
    left = raw["departures"].sort_values("actual_departure")
    flown = flown.sort_values("asked").reset_index(drop=True)
    for keys, span in ((["origin"], "2h"), (["carrier", "origin"], "24h")):
        flown = _rolled(flown, left, keys, span)
    last = left.dropna(subset=["tailnum"])[["tailnum", "actual_departure", "dep_delay"]]
    last = last.rename(columns={"dep_delay": "tail_delay", "actual_departure": "left_at"})
    flown = pd.merge_asof(
        flown, last, left_on="asked", right_on="left_at", by="tailnum", tolerance=pd.Timedelta(days=3)
    )
    flown["tail_hours"] = (flown["asked"] - flown["left_at"]).dt.total_seconds() / 3600
    columns = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    seen = raw["weather"].sort_values("recorded_at")[["origin", "recorded_at", *columns]]
    flown = pd.merge_asof(
        flown,
        seen,
        left_on="asked",
        right_on="recorded_at",
        by="origin",
        tolerance=pd.Timedelta(hours=6),
        suffixes=("", "_w"),
    )
    flown = flown.merge(raw["planes"][["tailnum", "year", "seats"]], "left", "tailnum", suffixes=("", "_plane"))
    local = flown["at"].dt.tz_convert("America/New_York")
    flown["weekday"], flown["late"] = local.dt.weekday, (flown["arr_delay"] >= 15).astype(int)
    made = [name for name in flown if name.endswith(("_mean", "_late", "_count"))]
    kept = [
        "at",
        "late",
        "carrier",
        "origin",
        "dest",
        "hour",
        "minute",
        "weekday",
        "scheduled_arrival_minute",
        "distance",
    ]
    return flown[[*kept, *made, "tail_delay", "tail_hours", *columns, "year_plane", "seats"]]


def _rolled(flown: pd.DataFrame, left: pd.DataFrame, keys: list[str], span: str) -> pd.DataFrame:
    """Add mean delay, late share and number of the departures in the span before each flight was asked about."""
    name = "_".join(keys)
    told = left[[*keys, "actual_departure", "dep_delay"]].assign(is_late=left["dep_delay"] >= 15)
    rolling = told.set_index("actual_departure").groupby(keys)[["dep_delay", "is_late"]].rolling(span)
    facts = rolling.mean().rename(columns={"dep_delay": f"{name}_mean", "is_late": f"{name}_late"})
    facts[f"{name}_count"] = rolling["dep_delay"].count()
    facts = facts.reset_index().drop_duplicates([*keys, "actual_departure"], keep="last")
    facts = facts.rename(columns={"actual_departure": "until"}).sort_values("until")
    found = pd.merge_asof(flown, facts, left_on="asked", right_on="until", by=keys, tolerance=pd.Timedelta(span) * 3)
    return found.drop(columns="until")


def _train_code() -> Any:
    spec = importlib.util.spec_from_file_location("months_train", problem(PROBLEM).code)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
