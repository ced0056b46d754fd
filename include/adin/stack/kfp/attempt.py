"""One try at a run: its folder, its process, and what the process wrote down.

The folder is the whole contract with the process: ``spec.json`` and ``arguments.json`` go in; ``process.json``,
``events.jsonl``, ``log/<step>.log``, ``run.log`` and at last ``result.json`` come out.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Environment variable by which every process of a run is known, also one that left the process group.
MARK = "ADIN_KFP_RUN"
#: Seconds a new process has to write down who it is.
_BIRTH = 30


@dataclass
class Attempt:
    """A try at a run.

    :param folder: where it lives; made by :meth:`start`.
    :param run_id: the run it belongs to.
    """

    folder: Path
    run_id: str
    child: subprocess.Popen[bytes] | None = None

    def start(self, spec: Mapping[str, Any], arguments: Mapping[str, Any], lock: Path, earlier: Path | None) -> None:
        """Start the run's process, in a session of its own so that it outlives a crash of the server.

        :param lock: file the server holds locked while it lives.
        :param earlier: folder of the failed attempt whose finished steps need not run again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "spec.json", spec)
        write_json(self.folder / "arguments.json", arguments)
        command = [sys.executable, "-m", "adin.stack.kfp.run", str(self.folder), "--server-lock", str(lock)]
        if earlier:
            command += ["--earlier", str(earlier)]
        with (self.folder / "run.log").open("ab") as log:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment() | {MARK: self.run_id},
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Return whether the run's process is gone."""
        if self.child is not None:
            return self.child.poll() is not None
        who = read_json(self.folder / "process.json")
        if not who:
            return not self.folder.exists() or time.time() - self.folder.stat().st_mtime > _BIRTH
        return birth(int(who["pid"])) != int(who["birth"])

    def ending(self) -> str:
        """Return how the process ended, in words."""
        code = self.child.returncode if self.child else None
        if code is None:
            return "it is gone"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to every process of the run and return how many there were."""
        found = 0
        for pid in processes(self.run_id):
            try:
                os.kill(pid, number)
                found += 1
            except ProcessLookupError:
                continue
        return found

    def kill(self, seconds: float = 5) -> None:
        """End every process of the run, and wait until all are gone."""
        deadline = time.monotonic() + seconds
        while self.signal(signal.SIGKILL) and time.monotonic() < deadline:
            if self.child is not None:
                self.child.poll()
            time.sleep(0.02)

    def result(self) -> dict[str, Any]:
        """Return what the process said at its end; empty if it said nothing."""
        return dict(read_json(self.folder / "result.json") or {})

    def events(self) -> Iterator[dict[str, Any]]:
        """Return what happened to the steps, in order."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        for line in path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line, parse_constant=str)
            except ValueError:
                continue  # the last line of a killed process may be cut

    def log(self, step: str) -> Path:
        """Return the log file of a step."""
        return self.folder / "log" / f"{step.replace('/', '.')}.log"


def processes(run_id: str) -> list[int]:
    """Return the processes that belong to a run, known by the mark in their environment."""
    mark = f"{MARK}={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and birth(int(entry.name)) is not None:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def birth(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot: with the pid it names the process. None if it is dead."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else int(rest[18])


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, default=str))
    part.replace(path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, None if there is no whole one."""
    try:
        return json.loads(path.read_text(), parse_constant=str)
    except (OSError, ValueError):
        return None


def tail(path: Path, size: int = 65536) -> str:
    """Return the end of a text file, at most this many bytes; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_line(path: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in tail(path, 8192).splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def finite(value: Any) -> Any:
    """Return a value that JSON can carry: NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list) else value


def _environment() -> dict[str, str]:
    # steps compiled with kfp's defaults ask pip for kfp first; this answers for it (see no_pip/pip/__main__.py)
    shim = Path(__file__).parent / "no_pip"
    own = dict(os.environ)
    own["PATH"] = f"{shim / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    own["PYTHONPATH"] = os.pathsep.join([str(shim), *filter(None, [own.get("PYTHONPATH")])])
    own["PYTHONUNBUFFERED"] = "1"
    return own
