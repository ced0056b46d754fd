"""Start local KFP: ``python -m adin.stack.kfp.server`` in the ML environment."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from adin import logs
from adin.connections import connection
from adin.errors import ConfigError
from adin.settings import settings
from adin.stack.kfp.api import app
from adin.stack.kfp.runs import Runs
from adin.stack.kfp.schedule import Schedule
from adin.stack.kfp.store import Store
from adin.stack.kfp.tracking import KFP

_LOG = logging.getLogger(__name__)
#: Seconds between two looks at runs and schedules.
_TICK = 0.2


def main() -> None:
    """Serve until told to stop. Address and token are those of connection ``kfp``.

    SIGTERM ends the runs that are going, as FAILED: an orderly stop leaves no process. After a crash they go on, and
    the next start finds them.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=settings().home / "kfp", help="folder of all state")
    home: Path = parser.parse_args().home
    logs.set_up("kfp")
    if version("kfp") != KFP:
        raise ConfigError(f"Local KFP needs kfp {KFP}, found {version('kfp')}.", "Install requirements-ml.lock.")
    conn = connection("kfp")
    if not conn.password or not conn.port:
        raise ConfigError("Connection kfp must have a port and a password (the token).", "Set ADIN_CONN_KFP.")
    os.umask(0o077)
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        _serve(home, conn.host, conn.port, conn.password)


def _serve(home: Path, host: str, port: int, token: str) -> None:
    import uvicorn

    store = Store(home / "kfp.sqlite")
    runs = Runs(store, home, settings().kfp_parallel_runs)
    schedule = Schedule(store, runs)

    @contextlib.asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        stop = threading.Event()
        engine = threading.Thread(target=_engine, args=(runs, schedule, stop), name="engine")
        engine.start()
        yield
        stop.set()
        engine.join()
        runs.stop()
        store.close()

    uvicorn.run(
        app(store, runs, schedule, token, lifespan=life),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=3,
    )


def _engine(runs: Runs, schedule: Schedule, stop: threading.Event) -> None:
    while not stop.wait(_TICK):
        for work in (runs.tick, schedule.tick):
            try:
                work()
            except Exception:
                _LOG.exception("The engine stumbled; it goes on")
                time.sleep(1)


@contextlib.contextmanager
def _alone(home: Path) -> Any:
    """Hold the lock by which runs see that their server lives, and a second server that it is not alone."""
    with (home / "server.lock").open("a") as file:
        _lock(file, home)
        yield


def _lock(file: IO[str], home: Path) -> None:
    deadline = time.monotonic() + 2
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # a run may be holding it for an instant, to see whether we live
            if time.monotonic() > deadline:
                raise ConfigError(f"Another local KFP uses {home}.", "Stop it, or give --home.") from None
            time.sleep(0.05)


if __name__ == "__main__":
    main()
