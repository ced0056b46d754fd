"""Watching what is under load, by what it answers alone; off unless ``serving.watch`` of the problem asks for it.

Nobody waits for what is done here, and nothing that goes wrong here fails a request.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from adin.drift.statistics import psi
from adin.models import registry
from adin.problem import Watch
from adin.promotion.metrics import ROWS
from adin.serving import predictor
from adin.serving.predictor import Predictor

log = logging.getLogger("adin.serving")

_DRIFT = Gauge(
    "adin_prediction_drift", "PSI of the answers since the swap, as share of what is allowed", ["model", "version"]
)
_SHADOWED = Counter("adin_shadow_requests", "Requests the challenger was asked beside", ["model", "version", "outcome"])
_SHADOW_SECONDS = Histogram("adin_shadow_seconds", "Time the challenger took for one", ["model", "version"])
_ESTIMATE = Gauge("adin_estimated_loss", "Loss to be expected by the newest answers", ["model", "version", "metric"])
_LOST = Counter("adin_prediction_log_lost", "Answers that were to be kept and were not", ["model"])
_DIFFERENCE = Histogram(
    "adin_shadow_difference",
    "Distance of its prediction from the one that was given",
    ["model", "version"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 1000),
)

#: Seconds between two writes of kept answers; answers of a write; answers that may wait while ClickHouse is away.
_FLUSH, _WRITTEN, _KEPT = 5, 2000, 100_000
#: Bins of the predictions, of as many rows each in the evaluation.
_BINS = 10
#: Predictions of the evaluation below which its shares say too little.
_EVALUATED = 100
#: Seconds between two looks at which version the challenger is.
_LOOK = 30
#: Requests that may wait for the challenger; it is not asked about more.
_WAITING = 8


class Watcher(Protocol):
    """Sees each answer."""

    def see(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        """Look at an answer; returns at once."""

    def close(self) -> None:
        """Watch no more."""


def watchers(made: Predictor) -> list[Watcher]:
    """Return what the problem of a version that comes under load asks for; :param made: the version."""
    asked = made.spec.serving.watch
    found: list[Watcher] = []
    if asked.drift is not None:
        if made.evaluated is None or len(made.evaluated) < _EVALUATED:
            log.warning("the drift of %s is not watched: its version has too few evaluated rows", made.spec.name)
        else:
            found.append(PredictionDrift(made.spec.name, made.version.number, made.evaluated, asked))
    if asked.shadow:
        found.append(Shadow(made.spec.name, asked.shadow))
    if asked.estimate:
        found.append(LossEstimate(made.spec.name, made.version.number, made.spec.promotion.primary, asked.min_rows))
    if asked.log:
        found.append(PredictionLog(made.spec.name, made.service.keys, made.spec.event_time, asked.log))
    return found


class PredictionDrift:
    """Distance of the answers since the swap from those of the evaluation, while the version is new.

    The population stability index over tenths of the evaluation's predictions; the metric is its share of the limit.

    :param evaluated: predictions of the evaluation.
    """

    def __init__(self, name: str, version: int, evaluated: Any, asked: Watch) -> None:
        assert asked.drift is not None
        self._labels = (name, str(version))
        self._limit, self._least = asked.drift, asked.min_rows
        self._end = time.monotonic() + asked.bake.total_seconds()
        inner = np.quantile(evaluated, np.linspace(0, 1, _BINS + 1)[1:-1])
        # models with few different answers have fewer bins
        self._edges = np.unique(inner)
        self._before = self._counted(evaluated)
        self._counts = np.zeros_like(self._before)
        self._lock = threading.Lock()

    def see(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        if time.monotonic() > self._end:
            return
        with self._lock:
            self._counts += self._counted(np.asarray(answer["predictions"], float))
            if self._counts.sum() >= self._least:
                _DRIFT.labels(*self._labels).set(float(psi(self._before, self._counts)) / self._limit)

    def close(self) -> None:
        with contextlib.suppress(KeyError):  # what was never set is not there
            _DRIFT.remove(*self._labels)

    def _counted(self, values: Any) -> Any:
        return np.bincount(np.searchsorted(self._edges, values, side="right"), minlength=len(self._edges) + 1)


class Shadow:
    """The challenger, asked beside the champion about a share of the requests; nobody gets its answers.

    :param share: of the requests, above 0, at most 1.
    """

    def __init__(self, name: str, share: float) -> None:
        self._name, self._share = name, share
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(_WAITING)
        self._made: Predictor | None = None
        self._looked, self._failed = float("-inf"), 0

    def see(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        drawn = random.random() < self._share  # noqa: S311 - a sample, no secret
        if not drawn or not self._room.acquire(blocking=False):
            return
        try:
            self._pool.submit(self._ask, instances, answer).add_done_callback(lambda _: self._room.release())
        except RuntimeError:  # closed meanwhile
            self._room.release()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        made = self._challenger(int(answer["model_version"]))
        if made is None:
            return
        version = str(made.version.number)
        began = time.perf_counter()
        try:
            found = made.predict(instances)["predictions"]
        except Exception as error:  # it is on trial: whatever it does is counted
            _SHADOWED.labels(self._name, version, "failed").inc()
            if self._failed != made.version.number:
                self._failed = made.version.number
                log.warning("version %s of %s fails as shadow: %s", version, self._name, error)
            return
        _SHADOW_SECONDS.labels(self._name, version).observe(time.perf_counter() - began)
        _SHADOWED.labels(self._name, version, "answered").inc()
        for mine, given in zip(found, answer["predictions"], strict=True):
            _DIFFERENCE.labels(self._name, version).observe(abs(mine - given))

    def _challenger(self, champion: int) -> Predictor | None:
        """Return the challenger, loaded; None while there is none or it cannot be loaded."""
        if time.monotonic() - self._looked < _LOOK:
            return self._made
        self._looked = time.monotonic()
        try:
            number = registry().state(self._name).challenger
            if number is None or number == champion:
                self._made = None
            elif self._made is None or self._made.version.number != number:
                self._made = predictor.load(self._name, number)
        except Exception as error:  # the registry or its files may be away; it is looked for again
            log.warning("the challenger of %s is not asked: %s", self._name, error)
        return self._made


class LossEstimate:
    """Mean loss to be expected by the newest answers, without labels: right if the probabilities are.

    Source: confidence-based performance estimation, as in NannyML's documentation.

    :param metric: ``log_loss`` or ``brier``.
    :param rows: so many answers.
    """

    def __init__(self, name: str, version: int, metric: str, rows: int) -> None:
        self._labels = (name, str(version), metric)
        self._loss = ROWS[metric]
        self._newest = np.full(rows, np.nan)
        self._seen = 0
        self._lock = threading.Lock()

    def see(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        p = np.asarray(answer["predictions"], float)[-len(self._newest) :]
        expected = p * self._loss(np.ones_like(p), p) + (1 - p) * self._loss(np.zeros_like(p), p)
        with self._lock:
            self._newest[(self._seen + np.arange(len(p))) % len(self._newest)] = expected
            self._seen += len(p)
            if self._seen >= len(self._newest):
                _ESTIMATE.labels(*self._labels).set(float(np.nanmean(self._newest)))

    def close(self) -> None:
        with contextlib.suppress(KeyError):  # what was never set is not there
            _ESTIMATE.remove(*self._labels)


class PredictionLog:
    """A share of the answers, kept in ClickHouse from a thread of its own.

    :param keys: entity keys, and :param event: the event's time, of a request.
    :param share: of the answers, above 0, at most 1.
    """

    def __init__(self, name: str, keys: Sequence[str], event: str, share: float) -> None:
        self._name, self._keys, self._event, self._share = name, tuple(keys), event, share
        self._waiting: deque[tuple[int, tuple[str, ...], int, float]] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write, name="prediction-log", daemon=True)
        self._thread.start()

    def see(self, instances: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        import pandas as pd

        version = int(answer["model_version"])
        for instance, prediction in zip(instances, answer["predictions"], strict=True):
            if random.random() >= self._share or math.isnan(prediction):  # noqa: S311 - a sample, no secret
                continue
            if len(self._waiting) >= _KEPT:
                _LOST.labels(self._name).inc()
                continue
            entity = tuple(_text(instance[key]) for key in self._keys)
            event = pd.Timestamp(instance[self._event]).value // 1000
            self._waiting.append((version, entity, event, prediction))

    def close(self) -> None:
        self._closed.set()

    def _write(self) -> None:
        from adin.drift import realised

        last = False
        while not last:
            last = self._closed.wait(_FLUSH)
            while some := [self._waiting.popleft() for _ in range(min(_WRITTEN, len(self._waiting)))]:
                try:
                    realised.keep(self._name, [realised.Served(*each) for each in some])
                except Exception as error:  # the answers were given; only their record waits
                    log.warning("%d answers of %s are not kept yet: %s", len(some), self._name, error)
                    self._waiting.extendleft(reversed(some))
                    break


def _text(value: Any) -> str:
    """Return a key's value as ClickHouse writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
