from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from adin.errors import ConfigError, NotFoundError
from adin.settings import settings
from adin.stack import control, credentials, layout, leftovers, monitoring, prepare, services


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test need the programs that only a whole set-up brings."""
    monkeypatch.setattr(services, "lakefs_binary", lambda: "/tools/lakefs")
    monkeypatch.setattr(services, "java", lambda: Path("/tools/bin/java"))


def test_no_two_servers_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [port for service in services.services().values() for port in service.ports]
    assert sorted(used) == sorted(set(layout.PORTS) - set(layout.MONITORING))
    monkeypatch.setattr(monitoring, "monitoring_binary", lambda name: f"/tools/{name}")
    layout.monitored(True)
    used = [port for service in services.services().values() for port in service.ports]
    assert sorted(used) == sorted(layout.PORTS)
    assert len(set(layout.PORTS.values())) == len(layout.PORTS)


def test_monitoring_is_asked_for_once_and_stays_until_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "monitoring_binary", lambda name: f"/tools/{name}")
    assert "prometheus" not in services.services()
    layout.monitored(True)
    known = services.services()
    assert {"prometheus", "alertmanager", "redis-exporter", "postgres-exporter", "statsd-exporter"} <= set(known)
    assert known["airflow-scheduler"].environment["AIRFLOW__METRICS__STATSD_ON"] == "True"
    credentials.write()
    assert "ADIN_CONN_ALERTMANAGER=" in (layout.home() / "secrets.env").read_text()
    layout.monitored(False)
    assert "prometheus" not in services.services()


def test_prometheus_watches_every_service_that_has_metrics_on_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = monitoring.targets(services.services().values())
    assert {"kserve", "kfp", "clickhouse", "alerts", "s3", "lakefs", "airflow", "redis", "postgres"} <= set(jobs)
    assert all(target.startswith("127.0.0.1:") for targets in jobs.values() for target in targets)
    monkeypatch.setattr(monitoring, "monitoring_binary", lambda name: f"/tools/{name}")
    for service in monitoring.services(services.services().values()):
        listening = [part for part in service.command if ".listen-" in part and not part.endswith("=")]
        assert all("=127.0.0.1:" in part for part in listening), service.name


def test_all_ports_follow_from_the_port_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIN_PORT_BASE", "31000")
    settings.cache_clear()
    assert all(31000 <= layout.port(name) < 31050 for name in layout.PORTS)


def test_a_service_brings_all_it_needs_and_comes_after_it() -> None:
    known = services.services()
    wanted = control._with_needs(known, ["lakefs"])
    assert wanted == ["postgres", "s3", "lakefs"]
    assert "airflow-api" in control._with_needs(known, ["airflow-scheduler"])
    for name in control._with_needs(known, []):
        assert all(list(known).index(need) < list(known).index(name) for need in known[name].needs)


def test_an_unknown_service_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(NotFoundError, match=r"No service 'redsi'.*redis"):
        control._with_needs(services.services(), ["redsi"])


def test_the_supervisor_gets_each_service_as_it_is_declared() -> None:
    service = services.Service("odd", ["/bin/echo", 'a "b" %c;d'], check=lambda: None, environment={"KEY": "1%2,3"})
    config = control._config([service])
    read = configparser.RawConfigParser()
    read.read_string(config)
    assert read["program:odd"]["command"] == '"/bin/echo" "a \\"b\\" %%c;d"'
    assert read["program:odd"]["environment"] == 'KEY="1%%2,3"'
    assert read["program:odd"]["autorestart"] == "true"
    assert read["unix_http_server"]["password"] == credentials.credentials()["supervisor"]


def test_the_socket_of_a_deep_home_stays_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIN_HOME", str(tmp_path / ("deep" * 30)))
    settings.cache_clear()
    assert len(str(control._socket())) < 100


def test_a_folder_that_the_user_of_postgres_cannot_pass_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"cannot pass through {closed}"):
        prepare._check_reachable("nobody", closed / "postgres")


def test_a_process_that_outlived_its_supervisor_is_found_and_ended() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    environment = {**os.environ, **leftovers.mark()}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        assert [found.pid for found in leftovers.processes()] == [process.pid]
        leftovers.sweep(grace=0.5)
        assert leftovers.processes() == []
    assert not psutil.pid_exists(process.pid)


def test_a_password_within_an_extra_of_a_connection_is_hidden_by_airflow() -> None:
    hidden = services.airflow_environment()["AIRFLOW__CORE__SENSITIVE_VAR_CONN_NAMES"].split(",")
    secrets = set(credentials.credentials().values())
    telling = {
        key
        for conn in credentials.connections()
        for key, value in conn.extra.items()
        if any(secret in str(value) for secret in secrets)
    }
    assert telling == set(hidden)


def test_options_of_airflow_in_the_environment_come_before_the_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.airflow_environment()["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] == "True"
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "False")
    assert services.airflow_environment()["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] == "False"
