"""Prometheus, Alertmanager and exporters beside the stack, when ``ADIN_MONITORING`` is on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from adin.settings import ROOT, settings
from adin.stack import checks
from adin.stack.credentials import credentials, write_private
from adin.stack.layout import HOST, home, monitoring_binary, port
from adin.stack.service import Service

FOLDER = ROOT / "deploy" / "prometheus"
#: Ports on which others than our own services tell about themselves.
_OTHERS = {"airflow": "statsd-metrics", "redis": "redis-metrics", "postgres": "postgres-metrics"}


def services(others: Iterable[Service]) -> list[Service]:
    """Return the services of the monitoring.

    :param others: the services that are watched.
    """
    return [*_exporters(), _alertmanager(), _prometheus(targets(others))]


def targets(found: Iterable[Service]) -> dict[str, list[str]]:
    """Return, by the name of its job, where the metrics of each part of the stack are."""
    own = {service.name: [f"{HOST}:{port(name)}" for name in service.metrics] for service in found if service.metrics}
    more = {**_OTHERS, "prometheus": "prometheus", "alertmanager": "alertmanager"}
    return own | {job: [f"{HOST}:{port(name)}"] for job, name in more.items()}


def config(jobs: dict[str, list[str]], alertmanager: str, interval: str = "15s") -> dict[str, Any]:
    """Return Prometheus' configuration.

    :param alertmanager: address of the Alertmanager that gets the alerts of the rules.
    """
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(FOLDER / "rules" / "*.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": where}]} for job, where in sorted(jobs.items())
        ],
    }


def prometheus_command(file: Path, data: Path, listen: str) -> list[str]:
    """Return the command of a Prometheus with its files in a folder."""
    options = {
        "config.file": file,
        "storage.tsdb.path": data,
        "storage.tsdb.retention.time": f"{settings().prometheus_days}d",
        "web.listen-address": listen,
    }
    return [monitoring_binary("prometheus"), *(f"--{key}={value}" for key, value in options.items())]


def alertmanager_command(file: Path, data: Path, listen: str) -> list[str]:
    """Return the command of an Alertmanager with its files in a folder."""
    options = {
        "config.file": file,
        "storage.path": data,
        "web.listen-address": listen,
        "cluster.listen-address": "",
        # what it has told is on disk within seconds: killed and started again, it does not tell it twice
        "data.maintenance-interval": "10s",
    }
    return [monitoring_binary("alertmanager"), *(f"--{key}={value}" for key, value in options.items())]


def _prometheus(jobs: dict[str, list[str]]) -> Service:
    file = home("prometheus") / "prometheus.yml"
    made = config(jobs, f"{HOST}:{port('alertmanager')}")
    return Service(
        "prometheus",
        prometheus_command(file, home("prometheus", "data"), f"{HOST}:{port('prometheus')}"),
        check=checks.prometheus,
        ports=("prometheus",),
        before=lambda: write_private(file, yaml.safe_dump(made, sort_keys=False)),
    )


def _alertmanager() -> Service:
    file = settings().alertmanager_config
    listen = f"{HOST}:{port('alertmanager')}"
    return Service(
        "alertmanager",
        alertmanager_command(file, home("alertmanager"), listen),
        check=checks.alertmanager,
        ports=("alertmanager",),
    )


def _exporters() -> list[Service]:
    made = credentials()
    redis, passwords = f"redis://{HOST}:{port('redis')}", home("prometheus") / "redis.json"

    def part(name: str, command: list[str], *more_ports: str, **more: Any) -> Service:
        place = f"{name}-metrics"
        line = [*command, f"--web.listen-address={HOST}:{port(place)}"]
        check = partial(checks.exporter, place)
        return Service(f"{name}-exporter", line, check=check, ports=(place, *more_ports), **more)

    statsd = [
        monitoring_binary("statsd_exporter"),
        f"--statsd.mapping-config={FOLDER / 'statsd.yml'}",
        f"--statsd.listen-udp={HOST}:{port('statsd')}",
        "--statsd.listen-tcp=",
    ]
    return [
        part("statsd", statsd, "statsd"),
        part(
            "redis",
            [
                monitoring_binary("prometheus-redis-exporter"),
                f"--redis.addr={redis}",
                f"--redis.password-file={passwords}",
            ],
            before=lambda: write_private(passwords, json.dumps({redis: made["redis"]})),
        ),
        part(
            "postgres",
            [monitoring_binary("prometheus-postgres-exporter")],
            environment={
                "DATA_SOURCE_URI": f"{HOST}:{port('postgres')}/postgres?sslmode=disable",
                "DATA_SOURCE_USER": "adin",
                "DATA_SOURCE_PASS": made["postgres"],
            },
        ),
    ]
