"""CPU and memory limits of a step, as far as one machine without cgroups of its own can keep them.

CPU: the step may run on so many processors, rounded up. Memory: the resident memory of the step and its descendants is
looked at while it runs; beyond the limit all are killed, as Kubernetes kills a container.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from adin.errors import ConfigError

#: Seconds between two looks at a step's memory.
_LOOK = 0.1
_TAKEN = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_turn = itertools.count()
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "LOKY_MAX_CPU_COUNT")


@dataclass(frozen=True)
class Limits:
    """What a step may use.

    :param cpu: processors; 0 is no limit.
    :param memory: bytes; 0 is no limit.
    """

    cpu: float = 0
    memory: int = 0

    @classmethod
    def of(cls, executor: Any, value_of: Callable[[str], Any]) -> Limits:
        """Return the limits in the compiled form of a step.

        A limit is a number, its memory in 10^9 bytes, or text with a unit, which may be taken from an argument of the
        pipeline.

        :param value_of: returns the value of one of the step's inputs.
        :raises ConfigError: an argument is no such text.
        """
        resources = executor.container.resources
        cpu, memory = (
            _TAKEN.sub(lambda found: str(value_of(found[1])), text)
            for text in (resources.resource_cpu_limit, resources.resource_memory_limit)
        )
        return cls(
            quantity(cpu) if cpu else resources.cpu_limit,
            int(quantity(memory) if memory else resources.memory_limit * 1e9),
        )


def quantity(text: str) -> float:
    """Read a quantity as Kubernetes writes it, such as ``500m``, ``2``, ``4G`` or ``4Gi``.

    :raises ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|[KMGTPE]i?)?", text.strip())
    if not found:
        raise ConfigError(f"{text!r} is no quantity of CPU or memory.", "Write 500m, 2, 4G or 4Gi.")
    unit = found[2] or ""
    if unit == "m":
        return float(found[1]) / 1000
    power = " KMGTPE".index(unit[0]) if unit else 0
    return float(found[1]) * float(1024 if unit.endswith("i") else 1000) ** power


def run(command: Sequence[str], limits: Limits, log: IO[bytes], env: Mapping[str, str]) -> int:
    """Run a step's process within its limits and return its exit code; what ended it stands in its log."""
    cores = _cores(limits.cpu)
    threads = {name: str(len(cores)) for name in _THREADS} if limits.cpu else {}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**threads, **env},
    )
    if limits.cpu:
        with contextlib.suppress(OSError):  # it has ended already
            os.sched_setaffinity(process.pid, cores)
    if not limits.memory:
        return process.wait()
    while True:
        try:
            return process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            used = _memory(process.pid)
        if used > limits.memory:
            _kill(process.pid)
            code = process.wait()
            told = (
                f"OOMKilled: the step used {used / 1e9:.2f} GB of memory; its limit is {limits.memory / 1e9:.2f} GB.\n"
            )
            log.write(told.encode())
            log.flush()
            return code or 1


def _cores(cpu: float) -> set[int]:
    """Return the processors of one step; steps that run side by side begin at different ones."""
    known = sorted(os.sched_getaffinity(0))
    wanted = min(len(known), math.ceil(cpu)) if cpu else len(known)
    first = (next(_turn) * wanted) % len(known)
    return {known[(first + n) % len(known)] for n in range(wanted)}


def _family(pid: int) -> list[Any]:
    import psutil

    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(pid: int) -> int:
    import psutil

    used = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            used += process.memory_info().rss
    return used


def _kill(pid: int) -> None:
    for process in reversed(_family(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
