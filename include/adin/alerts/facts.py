"""Facts that no process counts for itself, as gauges: health of the services, disk, models, freshness of the data.

It is also the source of the alert on stale features, since it reads how fresh they are.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import Gauge

from adin.alerts import outbox
from adin.alerts.alert import Alert, Found
from adin.control.history import reigns
from adin.errors import AdinError, ServiceError
from adin.models import Registry
from adin.models.log import MODES
from adin.settings import settings
from adin.stack.layout import HOST, port

log = logging.getLogger("adin.alerts")

#: Seconds for which what was asked of the services, and of the registry, is not asked again.
_FRESH = 5.0
#: Seconds the probe of features and datasets may take.
_PROBE_TIMEOUT = 60

_UP = Gauge("adin_service_up", "Whether a service that runs answers", ["service"])
_LATENCY = Gauge("adin_service_latency_seconds", "Time its health check took", ["service"])
_RESTARTS = Gauge("adin_service_restarts", "Times it was started again since the stack came up", ["service"])
_FREE = Gauge("adin_disk_free_bytes", "Space left where the stack keeps its data")
_SIZE = Gauge("adin_disk_size_bytes", "Space there is where the stack keeps its data")
_CHAMPION = Gauge("adin_model_champion_version", "Version that is to be under load", ["model"])
_VERSIONS = Gauge("adin_model_versions", "Versions that were registered", ["model"])
_CHANGED = Gauge("adin_model_changed_timestamp_seconds", "When the champion was last changed", ["model"])
_METRIC = Gauge("adin_model_metric", "Metric of the champion on its test split", ["model", "metric"])
_MODE = Gauge("adin_model_ct_mode", "1 for the mode of continuous training", ["model", "mode"])
_FROZEN = Gauge("adin_model_frozen", "Whether the champion is pinned", ["model"])
_UNTIL = Gauge("adin_features_online_until_timestamp_seconds", "End of what is online", ["domain", "view"])
_LAG = Gauge(
    "adin_features_lag_seconds", "Time by which what is online lags behind what has arrived", ["domain", "view"]
)
_ROWS = Gauge("adin_dataset_rows", "Rows of the newest dataset version", ["problem"])
_BUILT = Gauge("adin_dataset_created_timestamp_seconds", "When the newest dataset version was built", ["problem"])
_RUNS = re.compile(r'^adin_kfp_runs\{state="(\w+)"\} (\S+)$', re.MULTILINE)
_PER_MODEL = (_CHAMPION, _VERSIONS, _CHANGED, _METRIC, _MODE, _FROZEN)
_PROBED = (_UNTIL, _LAG, _ROWS, _BUILT)


class Facts:
    """Reads facts, seldom enough to be no load.

    :param status: returns how each service is, as :func:`adin.stack.control.status`.
    :param probe: returns how fresh features and datasets are; default a process of its own.
    """

    name, pause = "features", 600.0

    def __init__(
        self, models: Registry, status: Callable[[], Iterable[Any]], probe: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self._models, self._status, self._probe = models, status, probe or probed
        self._health: tuple[float, list[Any]] = (float("-inf"), [])
        self._read = float("-inf")
        self._lock = threading.Lock()
        self._well: dict[str, datetime] = {}
        self._fresh: dict[str, Any] = {"views": [], "datasets": []}

    def health(self) -> list[Any]:
        """Return how each service is, as of a few seconds ago at most."""
        with self._lock:
            asked, found = self._health
            if time.monotonic() - asked > _FRESH:
                found = list(self._status())
                self._health = time.monotonic(), found
                self._well |= {each.name: datetime.now(UTC) for each in found if each.latency is not None}
            return found

    def status(self) -> dict[str, Any]:
        """Return how everything is, as the status page shows it."""
        disk = shutil.disk_usage(settings().home)
        services = [
            {
                "name": each.name,
                "state": each.state,
                "latency": each.latency,
                "restarts": each.restarts,
                "problem": each.problem,
                "last_success": _text(self._well.get(each.name)),
            }
            for each in self._health[1] or self.health()
        ]
        return {
            "time": _text(datetime.now(UTC)),
            "services": services,
            "disk": {"free": disk.free, "size": disk.total},
            "queue": {"notices": len(list(outbox.waiting())), **self._queue()},
            **self._fresh,
        }

    def _queue(self) -> dict[str, int]:
        """Return how many pipeline runs wait and go in local KFP; nothing where it is not there or not well."""
        if not any(each.name == "kfp" and each.latency is not None for each in self._health[1]):
            return {}
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port('kfp')}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        return {state: int(float(count)) for state, count in _RUNS.findall(text)}

    def refresh(self) -> None:
        """Bring the gauges up to date; what cannot be read is left out, never told as it was."""
        health = [each for each in self.health() if each.state not in ("ABSENT", "STOPPED")]
        for gauge in (_UP, _LATENCY, _RESTARTS):
            gauge.clear()
        for each in health:
            _UP.labels(each.name).set(each.latency is not None)
            _RESTARTS.labels(each.name).set(each.restarts)
            if each.latency is not None:
                _LATENCY.labels(each.name).set(each.latency)
        disk = shutil.disk_usage(settings().home)
        _FREE.set(disk.free)
        _SIZE.set(disk.total)
        with self._lock:
            if time.monotonic() - self._read > _FRESH:
                self._read = time.monotonic()
                self._refresh_models()

    def _refresh_models(self) -> None:
        for gauge in _PER_MODEL:
            gauge.clear()
        try:
            for name in self._models.models():
                self._refresh_model(name)
        except AdinError as error:
            log.warning("the registry cannot be read: %s", error)

    def _refresh_model(self, name: str) -> None:
        state = self._models.state(name)
        _VERSIONS.labels(name).set(len(state.versions))
        _FROZEN.labels(name).set(state.frozen)
        for mode in MODES:
            _MODE.labels(name, mode).set(mode == state.mode)
        if state.champion is None:
            return
        _CHAMPION.labels(name).set(state.champion)
        _CHANGED.labels(name).set(reigns(self._models.log(name))[-1].since.timestamp())
        test = self._models.version(name, state.champion).manifest.metrics.get("test", {}).get("all", {})
        for metric, value in test.items():
            if value is not None:
                _METRIC.labels(name, metric).set(value)

    def look(self, position: Any, now: datetime) -> Found:
        """Read how fresh the data is; views that lag too far behind what has arrived are stale."""
        found = self._probe()
        self._fresh = {"views": found["views"], "datasets": found["datasets"]}
        for gauge in _PROBED:
            gauge.clear()
        for each in found["datasets"]:
            _ROWS.labels(each["problem"]).set(each["rows"])
            _BUILT.labels(each["problem"]).set(each["created"])
        online = [each for each in found["views"] if each["online_until"]]
        for each in online:
            until = datetime.fromisoformat(each["online_until"])
            _UNTIL.labels(each["domain"], each["view"]).set(until.timestamp())
            _LAG.labels(each["domain"], each["view"]).set(each["lag"])
        broken = {what: why for what, why in found["errors"].items() if what.startswith("feature")}
        if broken:  # a view that could not be read is not fresh
            raise ServiceError(f"Not all features could be read: {broken}")
        limit = timedelta(hours=settings().alert_stale_hours).total_seconds()
        return Found(up=[_stale(each, now) for each in online if each["lag"] > limit])


def _text(time_: datetime | None) -> str:
    return f"{time_:%Y-%m-%dT%H:%M:%SZ}" if time_ else ""


def _stale(each: dict[str, Any], now: datetime) -> Alert:
    return Alert(
        name="AdinFeaturesStale",
        severity="warning",
        labels={"domain": each["domain"], "view": each["view"]},
        summary=f"{each['view']} is online until {each['online_until'][:16]}: {each['lag'] / 3600:.0f} hours behind "
        "what has arrived",
        detail=f"See the runs of features__{each['domain']}.",
        links={"page": f"/dags/features__{each['domain']}"},
        since=now,
    )


def probed() -> dict[str, Any]:
    """Return what the probe prints.

    :raises ServiceError: it does not end well, or in time.
    """
    command = [sys.executable, "-m", "adin.alerts.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ServiceError(f"The probe of the features gave no answer in {_PROBE_TIMEOUT} s.") from None
    if done.returncode:
        raise ServiceError(f"The probe of the features failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
