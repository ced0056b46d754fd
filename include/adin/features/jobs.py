"""Spark jobs by spark-submit: named by their run key, their result kept in HDFS so that a retry finds it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adin import errors
from adin.connections import Connection, connection
from adin.connections import environment as connections_environment
from adin.errors import AdinError, NotFoundError, RunFailedError, ServiceError
from adin.features import hdfs
from adin.settings import ROOT, settings

#: Before the one line on stderr by which a job says what was wrong, as JSON.
ERROR_MARK = "ADIN-ERROR "
_UNREACHABLE = re.compile(r"Connection refused|ConnectException|NoRouteToHost|UnknownHostException|SafeModeException")


def run(
    job: str,
    *,
    key: str,
    arguments: Mapping[str, Any],
    conn: Connection | None = None,
    on_start: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Run ``include/spark/<job>.py`` to its end and return its result; one that already ended well is not run again.

    :param key: run key; the Spark application's name, and the name of its result.
    :param arguments: what the job is to do, as JSON.
    :param on_start: called with the process id of spark-submit.
    :raises DataError: the job found its input wrong.
    :raises ServiceError: a server did not answer; worth a retry.
    :raises RunFailedError: anything else; carries the end of the job's log.
    """
    if (found := result(key)) is not None:
        return found
    command = _command(job, key, arguments, conn or connection("spark"))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            env=_environment(),
        )
        on_start(process.pid)
        try:
            code = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        log = output.read().decode(errors="replace")
    found = result(key)
    if code == 0 and found is not None:
        return found
    raise _error(job, key, code, log)


def result(key: str) -> dict[str, Any] | None:
    """Return the result of a job that ended well, or None."""
    try:
        return dict(json.loads(hdfs.read(_result_path(key))))
    except NotFoundError:
        return None


def forget(key: str) -> None:
    """Delete a job's result, so that the next run works anew."""
    hdfs.delete(_result_path(key))


def _result_path(key: str) -> str:
    return f"/adin/jobs/{key}.json"


def _command(job: str, key: str, arguments: Mapping[str, Any], conn: Connection) -> list[str]:
    script = ROOT / "include" / "spark" / f"{job}.py"
    if not script.is_file():
        raise NotFoundError(f"No Spark job {job!r} in {script.parent}.")
    extra = conn.extra
    conf = {
        "spark.hadoop.fs.defaultFS": extra["namenode"],
        "spark.hadoop.hive.metastore.uris": extra["metastore"],
        "spark.sql.warehouse.dir": extra["warehouse"],
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # closing a file waits for its last block to be reported, which takes 2 ms; Hadoop first asks after 400
        "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "4",
        "spark.hadoop.dfs.client.block.write.locateFollowingBlock.retries": "12",
        # files go straight to their place: nobody looks there before the job has ended well
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.log.level": "WARN",
        "spark.driver.memory": settings().spark_driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if conn.host.startswith("local"):
        # one machine: few partitions, and nothing listens beyond loopback
        conf |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": "4",
            # a short job spends half its time in the second compiler; set other options in the connection's conf
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            # listing many folders is one task a folder otherwise
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        }
    conf |= {str(name): str(value) for name, value in extra.get("conf", {}).items()}
    options = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", conn.host, "--name", key]
    deploy = ["--deploy-mode", str(extra.get("deploy_mode", "client"))]
    payload = json.dumps({"key": key, "result": _result_path(key), **arguments})
    return [*submit, *deploy, *options, str(script), payload]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
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


def _error(job: str, key: str, code: int, log: str) -> AdinError:
    for line in log.splitlines():
        if line.startswith(ERROR_MARK):
            told = json.loads(line.removeprefix(ERROR_MARK))
            kind: type[AdinError] = getattr(errors, told["kind"], RunFailedError)
            return kind(told["message"])
    if found := _UNREACHABLE.search(log):
        line = next(line for line in log.splitlines() if found[0] in line)
        return ServiceError(f"Spark job {job} ({key}) reached no server: {line.strip()[:300]}", "Is the stack up?")
    tail = "\n".join(log.splitlines()[-15:])
    return RunFailedError(f"Spark job {job} ({key}) ended with code {code}:\n{tail}")
