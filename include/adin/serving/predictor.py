"""One served version: entity keys and request values in, prediction out."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from adin.errors import DataError, RefusedError
from adin.features import codec, reader, repo
from adin.models import artifact, registry
from adin.models.registry import ModelVersion
from adin.problem import Problem, problem

log = logging.getLogger("adin.serving")

#: Stands for a prediction that is missing on one side only; JSON has no infinity.
_INFINITE = 1e308


def load(name: str, number: int | None = None) -> Predictor:
    """Load a version from the registry, ready to answer.

    :param number: version; default the champion.
    :raises RefusedError: there is no champion, or a view of the model's features, or one of them, is not online.
    :raises NotFoundError: no such model or version.
    :raises DataError: a file is not the one that was registered.
    """
    return _opened(name, number)[0]


def check(name: str, number: int | None = None) -> dict[str, Any]:
    """Load a version as :func:`load` does, replay its test rows, and return what was found.

    :returns: ``version``, ``bytes`` of its files, and ``replay``: ``rows``, ``max_difference`` from the evaluation's
        predictions (1e308 where one is missing), ``latency_p95_ms`` of one row; None if it has no such rows.
    """
    made, rows = _opened(name, number)
    size = sum(file.bytes for file in made.version.manifest.files)
    replay = made.replay(rows) if rows is not None and len(rows) else None
    return {"name": name, "version": made.version.number, "loads": True, "bytes": size, "replay": replay}


def _opened(name: str, number: int | None) -> tuple[Predictor, Any]:
    """Return a version ready to answer, and the test rows it must answer as the evaluation did."""
    import pandas as pd

    models = registry()
    spec = problem(name)
    if number is None:
        number = models.state(name).champion
        if number is None:
            raise RefusedError(f"Model {name} has no champion.", f"Train it: DAG train__{name}.")
    found = models.version(name, number)
    repo.read_anew()
    if repo.definitions_hash(spec.domain) != found.manifest.registry:
        log.warning(
            "version %d of %s was trained with other feature definitions: its on-demand features may differ",
            number,
            name,
        )
    service = repo.service(spec.domain, found.manifest.service)
    if gone := sorted(set(found.manifest.features) - set(service.columns)):
        raise RefusedError(f"Version {number} of {name} needs features that are no more: {', '.join(gone)}.")
    if empty := reader.coverage(service, found.manifest.features):
        raise RefusedError(
            f"Version {number} of {name} is not put under load: nothing is online of {', '.join(empty)}.",
            f"Run features__{spec.domain}; for features added since the last load, "
            f"`adin features materialize {spec.domain} VIEW --all`.",
        )
    with tempfile.TemporaryDirectory() as folder:
        estimator = artifact.load(models.download(name, number, Path(folder)))
        kept = Path(folder) / artifact.REPLAY
        rows = pd.read_parquet(kept) if kept.is_file() else None
    evaluated = None if rows is None else rows[artifact.REPLAYED].dropna().to_numpy(float)
    made = Predictor(spec, found, service, estimator, evaluated)
    made.warm()
    return made, rows


class Predictor:
    """A model version with all it needs to answer; never changed once made.

    :param service: the version's features; the list itself comes from the version's manifest.
    :param estimator: object with ``predict(frame)``.
    :param evaluated: predictions of its evaluation, as far as they were kept.
    """

    def __init__(
        self, spec: Problem, version: ModelVersion, service: repo.Service, estimator: Any, evaluated: Any = None
    ) -> None:
        self.spec = spec
        self.version = version
        self.service = service
        self.estimator = estimator
        self.evaluated = evaluated
        self.reader = reader.OnlineReader(service)
        types = {name: kind for view in service.views for name, kind in view.key_types}
        for view in service.on_demand:
            types |= view.request_types
        types[spec.event_time] = "UnixTimestamp"
        #: Feast type name of each value a request must have.
        self.needed = {name: types.get(name, "") for name in (*service.keys, *service.request, spec.event_time)}
        self._features = list(version.manifest.features)
        self._limits = {view.name: _limit(view, spec) for view in service.views}

    def warm(self) -> None:
        """Answer once: the first prediction is slow and should not be a user's."""
        try:
            self.predict([self.spec.example])
        except DataError as error:
            log.warning("the example of %s cannot be answered: %s", self.spec.name, error)

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return one prediction per instance, with what it rests on.

        :param instances: entity keys and request values of each.
        :returns: ``predictions``, ``model_version``, ``dataset``, ``registry``, ``features_at`` per view.
        :raises DataError: an instance lacks a value, has one of a wrong type, or a feature whose lack is refused.
        :raises ServiceError: the online store did not answer in time.
        """
        import pandas as pd

        asked = self._asked(instances)
        try:
            asked["prediction_time"] = asked[self.spec.event_time] - pd.Timedelta(self.spec.predict_before)
        except OverflowError:
            raise DataError(f"{self.spec.event_time} is too early for a time.", "Write a real one.") from None
        columns, times = self.reader.read(instances, self.spec.serving.timeout.total_seconds())
        moments = asked["prediction_time"].tz_localize(None).to_numpy("datetime64[us]")
        for view in self.service.views:
            self._drop_stale(view, columns, moments, times[view.name])
        columns |= self._on_demand({**asked, **columns})
        answer = self.estimator.predict(pd.DataFrame({name: columns[name] for name in self._features}))
        manifest = self.version.manifest
        return {
            "predictions": [float(value) for value in answer],
            "model_version": self.version.number,
            "dataset": manifest.dataset,
            "registry": manifest.registry,
            "features_at": {view: _texts(at) for view, at in times.items()},
        }

    def replay(self, rows: Any) -> dict[str, Any]:
        """Predict for test rows whose features first go through the online store's encoding.

        :param rows: the version's features, and the evaluation's prediction.
        """
        import numpy as np
        import pandas as pd
        import pyarrow as pa

        columns = {name: rows[name] for name in self._features}
        for view in self.service.views:
            for name, kind in view.features:
                if (column := f"{view.name}__{name}") in columns:
                    stored = codec.encode(
                        codec.cast(pa.array(columns[column], from_pandas=True), kind, name=name), kind
                    )
                    columns[column] = codec.decode(stored.to_pylist(), kind)
        frame = pd.DataFrame({name: np.asarray(column) for name, column in columns.items()})
        expected = rows[artifact.REPLAYED].to_numpy(float)
        difference = np.abs(np.asarray(self.estimator.predict(frame), float) - expected)
        same = np.isnan(expected) & np.isnan(difference)
        # a busy machine is no fault of the model: of three tries with each row the fastest counts
        seconds = [min(self._seconds(frame.iloc[[place]]) for _ in range(3)) for place in range(min(20, len(frame)))]
        return {
            "rows": len(frame),
            "max_difference": float(np.where(same, 0, np.nan_to_num(difference, nan=_INFINITE)).max()),
            "latency_p95_ms": round(sorted(seconds)[int(0.95 * (len(seconds) - 1))] * 1000, 2),
        }

    def _seconds(self, rows: Any) -> float:
        began = time.perf_counter()
        self.estimator.predict(rows)
        return time.perf_counter() - began

    def _asked(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Check the instances and return the values of their requests as columns."""
        for number, instance in enumerate(instances):
            if not isinstance(instance, Mapping):
                raise DataError(f"instances[{number}] is no object.", f"Give {', '.join(self.needed)}.")
            if missing := [name for name in self.needed if name not in instance]:
                raise DataError(f"instances[{number}] lacks {', '.join(missing)}.", "Give null for what is not known.")
        asked = {name: _typed(name, kind, [each[name] for each in instances]) for name, kind in self.needed.items()}
        if asked[self.spec.event_time].hasnans:
            raise DataError(f"{self.spec.event_time} is null.", "It must be known: features are looked up for it.")
        return asked

    def _drop_stale(self, view: repo.View, columns: dict[str, Any], moments: Any, at: Any) -> None:
        """Take away values that are too old for the view or the problem's policy, or refuse."""
        import numpy as np

        gone = np.isnat(at)
        if limit := self._limits[view.name]:
            gone |= moments - at > np.timedelta64(limit)
        if not gone.any():
            return
        if self.spec.serving.missing.get(view.name) == "refuse":
            raise DataError(f"instances[{int(np.flatnonzero(gone)[0])}]: there is no fresh {view.name} for it.")
        for name, _ in view.features:
            column = f"{view.name}__{name}"
            columns[column] = _without(columns[column], gone)

    def _on_demand(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return repo.on_demand(columns, self.service.on_demand)
        except Exception as error:  # a function of the feature repository met values it was not made for
            views = ", ".join(view.name for view in self.service.on_demand)
            raise DataError(f"{views} cannot be computed from these values: {error}.") from error


def _limit(view: repo.View, spec: Problem) -> timedelta | None:
    """Return how old a value of a view may be: what the join of the training set allowed, or less."""
    limits = [limit for limit in (view.ttl, spec.serving.max_age.get(view.name)) if limit]
    return min(limits, default=None)


def _without(column: Any, gone: Any) -> Any:
    import numpy as np

    kind = column.dtype.kind
    kept = column.astype(object) if kind == "b" else column.astype(float) if kind in "iu" else column.copy()
    kept[gone] = {"O": None, "M": np.datetime64("NaT")}.get(kept.dtype.kind, np.nan)
    return kept


def _texts(moments: Any) -> list[str | None]:
    import numpy as np

    return [None if text == "NaT" else f"{text}Z" for text in np.datetime_as_string(moments, "s").tolist()]


def _typed(name: str, kind: str, values: list[Any]) -> Any:
    """Return request values as a column of their declared type; null stays null."""
    import numpy as np
    import pandas as pd

    wanted, fits = _FITS.get(kind, ("", lambda value: True))
    if wrong := [value for value in values if value is not None and not fits(value)]:
        raise DataError(f"{name} must be {wanted}, not {wrong[0]!r}.")
    if kind != "UnixTimestamp":
        missing = any(value is None for value in values)
        dtype = {"Int32": "int64", "Int64": "int64", "Float32": "float64", "Float64": "float64"}.get(kind)
        return np.array(values, "float64" if dtype and missing else dtype or object)
    try:
        return pd.to_datetime(pd.Index(values, dtype=object), utc=True, format="ISO8601")
    except ValueError as error:
        raise DataError(f"{name} must be {wanted}: {error}.") from None


def _whole(bits: int) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: Per Feast type name, what a value must be and whether one is.
_FITS: dict[str, tuple[str, Any]] = {
    "String": ("text", lambda value: isinstance(value, str)),
    "Int32": ("a whole number of 32 bits", _whole(31)),
    "Int64": ("a whole number of 64 bits", _whole(63)),
    "Float32": ("a finite number", _number),
    "Float64": ("a finite number", _number),
    "Bool": ("true or false", lambda value: isinstance(value, bool)),
    "UnixTimestamp": ("a time such as 2013-01-01T00:00:00Z", lambda value: isinstance(value, str)),
}
