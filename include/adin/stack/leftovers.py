"""Find and end what outlived its supervisor, so that ``down`` leaves no process and ``up`` finds its ports free."""

from __future__ import annotations

import contextlib
import os

import psutil

from adin.settings import settings

_MARK = "ADIN_STACK"


def mark() -> dict[str, str]:
    """Return the environment by which every process of this stack, and what it starts, is known."""
    # SPT_NOENV keeps Airflow's processes from writing their title over their environment
    return {_MARK: str(settings().home.resolve()), "SPT_NOENV": "1"}


def processes() -> list[psutil.Process]:
    """Return the living processes of this stack; the caller and its parents are not counted."""
    mine = {parent.pid for parent in psutil.Process().parents()} | {os.getpid()}
    return [process for process in psutil.process_iter() if process.pid not in mine and _belongs(process)]


def sweep(grace: float = 10) -> None:
    """End all processes of this stack, first kindly.

    :param grace: seconds between asking a process to end and killing it.
    """
    left = processes()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=grace)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=grace)


def _belongs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        marked: bool = process.environ().get(_MARK) == mark()[_MARK]
        return marked and process.status() != psutil.STATUS_ZOMBIE
    return False
