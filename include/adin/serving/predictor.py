"""One served version: entity keys and request values in, prediction out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adin.errors import DataError, RefusedError
from adin.features import reader, repo
from adin.models import artifact, registry
from adin.models.registry import ModelVersion
from adin.problem import Problem, problem

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, number: int | None = None) -> Predictor:
    """Load a version from the registry, ready to answer.

    :param number: version; default the champion.
    :raises RefusedError: there is no champion, or a view of the model's features has nothing online.
    :raises NotFoundError: no such model or version.
    :raises DataError: a file is not the one that was registered.
    """
    models = registry()
    if number is None:
        number = models.state(name).champion
        if number is None:
            raise RefusedError(f"Model {name} has no champion.", f"Train it: DAG train__{name}.")
    found = models.version(name, number)
    spec = problem(name)
    service = repo.service(spec.domain, found.manifest.service)
    if gone := sorted(set(found.manifest.features) - set(service.columns)):
        raise RefusedError(f"Version {number} of {name} needs features that are no more: {', '.join(gone)}.")
    if empty := reader.coverage(service):
        raise RefusedError(
            f"Version {number} of {name} is not put under load: nothing is online of {', '.join(empty)}.",
            f"Run features__{spec.domain}.",
        )
    with tempfile.TemporaryDirectory() as folder:
        estimator = artifact.load(models.download(name, number, Path(folder)))
    return Predictor(spec, found, service, estimator)


class Predictor:
    """A model version with all it needs to answer; never changed once made.

    :param service: the version's features; the list itself comes from the version's manifest.
    :param estimator: object with ``predict(frame)``.
    """

    def __init__(self, spec: Problem, version: ModelVersion, service: repo.Service, estimator: Any) -> None:
        self.spec = spec
        self.version = version
        self.service = service
        self.estimator = estimator
        self.reader = reader.OnlineReader(service)
        self._needed = tuple(dict.fromkeys((*service.keys, *service.request, spec.event_time)))
        self._types = {name: kind for view in service.views for name, kind in view.key_types}

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return one prediction per instance, with what it rests on.

        :param instances: entity keys and request values of each.
        :returns: ``predictions``, ``model_version``, ``dataset``, ``registry``, ``features_at`` per view.
        :raises DataError: an instance lacks a value, has one of a wrong type, or a feature whose lack is refused.
        :raises ServiceError: the online store did not answer in time.
        """
        import pandas as pd

        frame = self._asked(instances)
        frame["prediction_time"] = frame[self.spec.event_time] - pd.Timedelta(self.spec.predict_before)
        columns, times = self.reader.read(frame[list(self.service.keys)].to_dict("records"), self._timeout)
        frame = frame.assign(**columns)
        for view in self.service.views:
            self._drop_stale(frame, view, times[view.name])
        frame = repo.with_on_demand(frame, self.service.on_demand)
        manifest = self.version.manifest
        answer = self.estimator.predict(frame[list(manifest.features)])
        return {
            "predictions": [float(value) for value in answer],
            "model_version": self.version.number,
            "dataset": manifest.dataset,
            "registry": manifest.registry,
            "features_at": {
                view: [None if text == "NaT" else f"{text}Z" for text in at.astype("datetime64[s]").astype(str)]
                for view, at in times.items()
            },
        }

    @property
    def _timeout(self) -> float:
        return self.spec.serving.timeout.total_seconds()

    def _asked(self, instances: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        import pandas as pd

        for number, instance in enumerate(instances):
            if not isinstance(instance, Mapping):
                raise DataError(f"instances[{number}] is no object.", f"Give {', '.join(self._needed)}.")
            if missing := [name for name in self._needed if name not in instance]:
                raise DataError(f"instances[{number}] lacks {', '.join(missing)}.", "Give null for what is not known.")
        frame = pd.DataFrame([{name: each[name] for name in self._needed} for each in instances])
        for view in self.service.on_demand:
            for column in view.inputs.values():
                if column in frame.columns:
                    frame[column] = _typed(frame[column], view.request_types.get(column, ""), column)
        frame[self.spec.event_time] = _typed(frame[self.spec.event_time], "UnixTimestamp", self.spec.event_time)
        return frame

    def _drop_stale(self, frame: pd.DataFrame, view: repo.View, at: Any) -> None:
        """Take away values that are too old for the problem's policy, or refuse."""
        import numpy as np
        import pandas as pd

        gone = np.isnat(at)
        if view.name in self.spec.serving.max_age:
            age = frame["prediction_time"] - pd.Series(at, index=frame.index).dt.tz_localize("UTC")
            gone = gone | (age > pd.Timedelta(self.spec.serving.max_age[view.name])).to_numpy()
        if gone.any() and self.spec.serving.missing.get(view.name) == "refuse":
            raise DataError(f"instances[{int(np.flatnonzero(gone)[0])}]: no fresh {view.name} for it.")
        for name, _ in view.features:
            column = f"{view.name}__{name}"
            frame[column] = frame[column].where(~gone)


def _typed(column: pd.Series, kind: str, name: str) -> pd.Series:
    """Return request values as their declared type."""
    import pandas as pd

    try:
        if kind == "UnixTimestamp":
            return pd.to_datetime(column, utc=True, format="ISO8601")
        if kind in ("Int32", "Int64", "Float32", "Float64"):
            return pd.to_numeric(column)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} is no {kind}: {error}.") from None
    if kind == "String" and not all(value is None or isinstance(value, str) for value in column):
        raise DataError(f"{name} must be text.")
    return column
