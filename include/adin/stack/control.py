"""Start, stop and watch the local stack. Processes are kept by supervisord; this module gives them order and health."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from adin.errors import ConfigError, NotFoundError, ServiceError
from adin.settings import settings
from adin.stack import credentials, leftovers
from adin.stack.layout import HOST, home, monitored, port, program
from adin.stack.service import Service
from adin.stack.services import services

_RUNNING, _STARTING = {"RUNNING"}, {"STARTING", "BACKOFF"}
#: Seconds one service may take until it is well: seconds are usual, minutes happen on a busy machine.
_PATIENCE = 600
#: Seconds processes may take to stop before they are killed.
_STOP_PATIENCE = 30


@dataclass(frozen=True)
class Health:
    """How one service is.

    :param state: supervisord's word for the process, ``ABSENT`` where it was never started.
    :param latency: seconds its health check took; None if it failed.
    """

    name: str
    state: str
    pid: int | None
    uptime: int
    restarts: int
    latency: float | None
    problem: str


def up(only: Iterable[str] = (), progress: Callable[[str], None] = lambda _: None) -> None:
    """Start the stack, or some services and what they need, and wait until all are well. Running ones are left alone.

    :param only: names of services; default all.
    :param progress: called with one line for each service that is well.
    :raises ConfigError: a port is taken, a program is missing, or the home was made for other ports.
    :raises ServiceError: a service did not become well; the message shows the end of its log.
    """
    home().chmod(0o711)  # PostgreSQL may run as another user, who passes through
    _check_port_base()
    credentials.write()
    known = services()
    wanted = _with_needs(known, only)
    _start_supervisor(known.values())
    running = _running()
    _check_ports([known[name] for name in wanted if name not in running])
    began = time.monotonic()
    events = {name: threading.Event() for name in wanted}
    failed = threading.Event()

    def bring_up(name: str) -> None:
        try:
            service = known[name]
            for need in service.needs:
                while not events[need].wait(0.1):
                    if failed.is_set():
                        return
            _bring_up(service, failed)
            progress(f"{name} is well after {time.monotonic() - began:.0f} s")
            events[name].set()
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(wanted)) as pool:
        done = [pool.submit(bring_up, name) for name in wanted]
    for future in done:
        future.result()


def down() -> None:
    """Stop every process of the stack; what they stored stays."""
    pid = _supervisor_pid()
    if pid is not None:
        with contextlib.suppress(OSError, Fault, ServiceError):
            _stop(list(services()))
            _supervisor().supervisor.shutdown()
        end = time.monotonic() + _STOP_PATIENCE
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.1)
    leftovers.sweep()
    _pid_file().unlink(missing_ok=True)


def restart(only: Iterable[str] = (), progress: Callable[[str], None] = lambda _: None) -> None:
    """Stop some services, default all that run, and start them again."""
    known = services()
    names = list(only) or [health.name for health in status() if health.pid]
    _with_needs(known, names)
    if _supervisor_pid() is not None:
        _stop([name for name in known if name in names])
    up(names, progress)


def _check_port_base() -> None:
    """Keep a home to the ports it was made with: its Hive tables name the NameNode's."""
    kept, base = home() / "port_base", str(settings().port_base)
    if not kept.exists():
        kept.write_text(base)
    if (made := kept.read_text()) != base:
        raise ConfigError(
            f"The stack in {home()} was made with ADIN_PORT_BASE={made}, now it is {base}; its tables name the ports.",
            f"Set ADIN_PORT_BASE={made}, or another ADIN_HOME.",
        )


def _running() -> set[str]:
    return {info["name"] for info in _supervisor().supervisor.getAllProcessInfo() if info["pid"]}


def _stop(names: list[str]) -> None:
    """Stop services, those first which nothing else needs."""
    proxy, known = _supervisor().supervisor, services()
    left = _running().intersection(names)
    while left:
        wave = left - {need for name in left for need in known[name].needs}
        for name in wave:
            with contextlib.suppress(Fault):
                proxy.stopProcess(name, False)
        end = time.monotonic() + _STOP_PATIENCE
        while _running() & wave and time.monotonic() < end:
            time.sleep(0.1)
        left -= wave


def status() -> list[Health]:
    """Return how each service is, in starting order."""
    if _supervisor_pid() is None:
        return [Health(name, "ABSENT", None, 0, 0, None, "") for name in services()]
    found = {info["name"]: info for info in _supervisor().supervisor.getAllProcessInfo()}
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda service: _health(service, found.get(service.name)), services().values()))


def log_file(name: str) -> Path:
    """Return the log of a service.

    :raises NotFoundError: there is no such service.
    """
    _with_needs(services(), [name])
    return home("logs") / f"{name}.log"


def addresses() -> str:
    """Return where people look: addresses, and who signs in."""
    made = credentials.credentials()
    watched = (
        f"Prometheus    http://{HOST}:{port('prometheus')}\nAlertmanager  http://{HOST}:{port('alertmanager')}\n"
        if monitored()
        else ""
    )
    return watched + (
        f"Airflow   http://{HOST}:{port('airflow')}   user admin   password {made['airflow_admin']}\n"
        f"lakeFS    http://{HOST}:{port('lakefs')}   key {made['lakefs_key']}\n"
        f"KFP API   http://{HOST}:{port('kfp')}\n"
        f"KServe    http://{HOST}:{port('kserve')}\n"
        f"push API  http://{HOST}:{port('push')}\n"
        f"HDFS      http://{HOST}:{port('namenode-http')}\n"
        f"secrets   {settings().home / 'secrets.env'}"
    )


def airflow_login(user: str = "admin") -> tuple[str, str, str]:
    """Return address, user and password of the stack's Airflow.

    :param user: ``admin``, or ``viewer``, who may look at everything and change nothing.
    """
    return f"http://{HOST}:{port('airflow')}", user, credentials.credentials()[f"airflow_{user}"]


def _with_needs(known: dict[str, Service], only: Iterable[str]) -> list[str]:
    wanted: set[str] = set()

    def add(name: str) -> None:
        if name not in known:
            raise NotFoundError(f"No service {name!r}.", f"Services: {', '.join(known)}.")
        wanted.add(name)
        for other in (*known[name].needs, *known[name].beside):
            if other not in wanted:
                add(other)

    for name in list(only) or known:
        add(name)
    return [name for name in known if name in wanted]


def _bring_up(service: Service, failed: threading.Event) -> None:
    proxy = _supervisor().supervisor
    state = proxy.getProcessInfo(service.name)["statename"]
    if state not in _RUNNING | _STARTING:
        service.before()
        proxy.startProcess(service.name, False)
    end = time.monotonic() + _PATIENCE
    problem = "it gave no answer"
    while time.monotonic() < end and not failed.is_set():
        state = proxy.getProcessInfo(service.name)["statename"]
        if state == "FATAL":
            problem = "it keeps dying"
            break
        try:
            service.check()
        except Exception as error:  # any failure to answer means: not well yet
            problem = str(error)
            time.sleep(0.5)
            continue
        service.after()
        return
    if failed.is_set():
        return
    tail = "".join(f"\n  {line}" for line in _tail(home("logs") / f"{service.name}.log"))
    raise ServiceError(
        f"{service.name} did not become well: {problem}.{tail}", f"See `adin stack logs {service.name}`."
    )


def _check_ports(wanted: Iterable[Service]) -> None:
    taken = [f"{port(name)} ({service.name})" for service in wanted for name in service.ports if not _free(port(name))]
    if taken:
        remedy = "Stop what listens there, or choose other ports with ADIN_PORT_BASE."
        raise ConfigError(f"Ports the stack needs are taken: {', '.join(taken)}.", remedy)


def _free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError:
            return False
    return True


def _health(service: Service, info: dict[str, Any] | None) -> Health:
    if info is None or not info["pid"]:
        state = info["statename"] if info else "ABSENT"
        return Health(service.name, state, None, 0, _starts(service.name) - 1, None, info["spawnerr"] if info else "")
    began = time.monotonic()
    try:
        service.check()
    except Exception as error:  # whatever is wrong is what status is asked for
        latency, problem = None, str(error).splitlines()[0][:120]
    else:
        latency, problem = time.monotonic() - began, ""
    uptime = int(info["now"] - info["start"])
    return Health(service.name, info["statename"], info["pid"], uptime, _starts(service.name) - 1, latency, problem)


def _starts(name: str) -> int:
    """Count how often supervisord started a service since the stack came up."""
    log = home("logs") / "supervisord.log"
    return max(1, log.read_text().count(f"spawned: '{name}'")) if log.is_file() else 1


def _tail(path: Path, lines: int = 12) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:] if path.is_file() else []


# --- supervisord -------------------------------------------------------------------------------------------------


def _socket() -> Path:
    path = home() / "supervisor.sock"
    if len(str(path)) < 100:
        return path
    # a Unix socket's path is limited to about 100 characters
    return Path(tempfile.gettempdir()) / f"adin-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.sock"


def _pid_file() -> Path:
    return home() / "supervisord.pid"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def _supervisor_pid() -> int | None:
    try:
        pid = int(_pid_file().read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if _alive(pid) and _socket().exists() else None


def _supervisor() -> Any:
    from supervisor.xmlrpc import SupervisorTransport

    password = credentials.credentials()["supervisor"]
    return ServerProxy("http://localhost", transport=SupervisorTransport("adin", password, f"unix://{_socket()}"))


def _start_supervisor(known: Iterable[Service]) -> None:
    config = home() / "supervisord.conf"
    credentials.write_private(config, _config(known))
    if _supervisor_pid() is not None:
        _reload()
        return
    leftovers.sweep()
    (home("logs") / "supervisord.log").unlink(missing_ok=True)
    command = [program("supervisord"), "-c", str(config)]
    environment = {**os.environ, **leftovers.mark()}
    done = subprocess.run(command, capture_output=True, text=True, cwd=home(), env=environment, check=False)
    if done.returncode:
        raise ServiceError(f"supervisord did not start: {(done.stdout + done.stderr).strip()[-500:]}")
    end = time.monotonic() + 30
    while True:
        try:
            _supervisor().supervisor.getState()
            return
        except OSError:
            if time.monotonic() > end:
                raise ServiceError("supervisord does not answer.", f"See {home('logs') / 'supervisord.log'}.") from None
            time.sleep(0.1)


def _reload() -> None:
    """Let a running supervisord know services whose definition has changed; only stopped ones are taken over."""
    proxy = _supervisor().supervisor
    added, changed, removed = proxy.reloadConfig()[0]
    stopped = {info["name"] for info in proxy.getAllProcessInfo() if not info["pid"]}
    for name in [name for name in (*changed, *removed) if name in stopped]:
        proxy.removeProcessGroup(name)
    for name in (*added, *(name for name in changed if name in stopped)):
        proxy.addProcessGroup(name)


def _config(known: Iterable[Service]) -> str:
    password = credentials.credentials()["supervisor"]
    logs = home("logs")
    parts = [
        f"[supervisord]\nnodaemon=false\npidfile={_pid_file()}\nlogfile={logs / 'supervisord.log'}\n"
        f"logfile_maxbytes=10MB\nchildlogdir={logs}\n",
        f"[unix_http_server]\nfile={_socket()}\nchmod=0600\nusername=adin\npassword={password}\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
    ]
    return "\n".join(parts + [_section(service, logs) for service in known])


def _section(service: Service, logs: Path) -> str:
    lines = {
        "command": " ".join(_quoted(part) for part in service.command),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "5",
        "stopsignal": service.stop_signal,
        "stopwaitsecs": "20",
        "stopasgroup": "false" if service.name == "postgres" else "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": str(logs / f"{service.name}.log"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "3",
    }
    if service.environment:
        lines["environment"] = ",".join(f"{key}={_quoted(value)}" for key, value in service.environment.items())
    if service.user:
        lines["user"] = service.user
    body = "\n".join(f"{key}={value}" for key, value in lines.items())
    return f"[program:{service.name}]\n{body}\n"


def _quoted(value: str) -> str:
    escaped = value.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
