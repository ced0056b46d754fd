"""spark-submit as a child of this process: it ends when this process does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adin.connections import environment as connections_environment
from adin.errors import RunFailedError
from adin.settings import ROOT

#: Seconds between two looks at it.
_PAUSE = 2.0


#: Made by set-up; one of another Java or other jars is silently left unused.
_CLASSES = ROOT / "build" / "spark.jsa"
#: A short job spends half its time in the second compiler.
_SHORT = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:cds=off -Xlog:cds+dynamic=off"


def driver_options() -> str:
    """Return options of Java for a driver on this machine: for a short job, with the archive where there is one."""
    return f'{_SHORT} "-XX:SharedArchiveFile={_CLASSES}"' if _CLASSES.is_file() else _SHORT


def keep_classes() -> None:
    """Run a driver that loads what our jobs load, and keep its classes for the drivers to come (JEP 350).

    :raises RunFailedError: the driver failed; nothing is kept.
    """
    part = _CLASSES.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory() as folder:
        conf = {
            "spark.driver.extraJavaOptions": f'{_SHORT} "-XX:ArchiveClassesAtExit={part}"',
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.hadoop.ipc.client.connect.max.retries": "0",
            "spark.sql.shuffle.partitions": "4",
            "spark.sql.warehouse.dir": f"{folder}/warehouse",
            "spark.ui.enabled": "false",
        }
        code, log = spark_submit(["--master", "local[2]"], conf, ROOT / "include" / "spark" / "classes.py", folder)
    if code:
        raise RunFailedError(f"The driver that loads classes failed:\n{log[-3000:]}")
    if part.is_file():  # a Java that came without an archive of its own classes makes none
        part.rename(_CLASSES)


def spark_submit(
    options: Sequence[str],
    conf: Mapping[str, str],
    script: Path,
    payload: str,
    on_start: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Run it to its end; return its exit code and its log.

    :param options: what is no property of Spark's, such as ``--master``.
    :param conf: properties. They go by a file that only this user can read: what stands in a command line all can see.
    :param payload: the script's one argument.
    :param on_start: called with the process id, and :param on_wait: every other second while it runs.
    """
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryFile() as output:
        properties = Path(own, "spark.properties")
        properties.write_text("".join(f"{name} {_escaped(value)}\n" for name, value in conf.items()))
        files = ["--properties-file", str(properties), "--load-spark-defaults"]
        program = str(Path(sys.executable).with_name("spark-submit"))
        process = subprocess.Popen(
            [program, *options, *files, str(script), payload],
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            env=_environment(own),
        )
        try:
            on_start(process.pid)
            while (code := _ended(process)) is None:
                on_wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Wait a while; return the exit code, or None where it still runs."""
    try:
        return process.wait(_PAUSE)
    except subprocess.TimeoutExpired:
        return None


def _escaped(value: str) -> str:
    """Return a value as Java's properties files have it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _environment(conf: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        # spark-submit asks for it where the master is YARN; all that would stand there is in the connection
        "HADOOP_CONF_DIR": conf,
        **os.environ,
        **connections_environment(),
        "PATH": path,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONWARNINGS": "ignore",
        # Feast instruments its classes with type checks at import, unless asserts are off: 6 s
        "PYTHONOPTIMIZE": "1",
        "TZ": "UTC",
    }


def _die_with_parent() -> None:
    """Let the kernel kill spark-submit when this process dies, so that no job goes on unwatched."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
