"""Spark jobs: named by their run key, their result kept in HDFS so that a retry finds it.

By the connection ``spark`` a job's driver is a child of this process, or runs in a cluster (:mod:`.clusters`).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adin import errors
from adin.connections import Connection, connection
from adin.errors import AdinError, NotFoundError, RunFailedError, ServiceError
from adin.features import clusters, hdfs
from adin.features.spark_submit import driver_options, spark_submit
from adin.settings import ROOT, settings

#: Before the one line on stderr by which a job says what was wrong, as JSON.
ERROR_MARK = "ADIN-ERROR "
_UNREACHABLE = re.compile(r"Connection refused|ConnectException|NoRouteToHost|UnknownHostException|SafeModeException")
#: Seconds between two looks at a job in a cluster.
_PAUSE = 2


def run(
    job: str,
    *,
    key: str,
    arguments: Mapping[str, Any],
    conn: Connection | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_progress: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run ``include/spark/<job>.py`` to its end and return its result; one that already ended well is not run again.

    :param key: run key; the Spark application's name, and the name of its result.
    :param arguments: what the job is to do, as JSON.
    :param on_start: called with the process id of spark-submit where the driver is its child.
    :param on_progress: called every other second with what the job has written down of how far it is, nothing at first.
        What it raises stops the job, a ``ServiceError`` apart.
    :raises DataError: the job found its input wrong.
    :raises ServiceError: a server did not answer; worth a retry.
    :raises RunFailedError: anything else; carries the end of the job's log.
    """
    if (found := result(key)) is not None:
        return found
    conn = conn or connection("spark")

    def look() -> None:
        if on_progress is not None:
            on_progress(_progress(key))

    if (cluster := clusters.of(conn)) is not None:
        application = find(cluster, key) or submit(job, key=key, arguments=arguments, conn=conn)
        return _follow(cluster, key, application, look)
    options = ["--master", conn.host, "--name", key, "--deploy-mode", "client"]
    if on_progress is not None:
        hdfs.delete(_progress_path(key))
    payload = _payload(key, arguments)
    code, log = spark_submit(options, _conf(conn), _script(job), payload, on_start, look)
    found = result(key)
    if code == 0 and found is not None:
        return found
    raise _error(key, log)


def submit(job: str, *, key: str, arguments: Mapping[str, Any], conn: Connection) -> str:
    """Start a job in the cluster of a connection and return its application's id."""
    cluster = clusters.of(conn)
    assert cluster is not None
    _script(job)
    for path in (_told_path(key), _progress_path(key)):
        hdfs.delete(path)
    return cluster.submit(key, _conf(conn), job, _payload(key, {"tell": _told_path(key), **arguments}))


def find(cluster: clusters.Cluster, key: str) -> str | None:
    """Return the application that works under a run key, or has done so and left its result."""
    found = cluster.find(key)
    if found is None or cluster.states.get(cluster.state(found)) != clusters.SUCCEEDED:
        return found
    return found if result(key) is not None else None


def failure(cluster: clusters.Cluster, key: str, application: str, word: str) -> AdinError:
    """Return the error of an application that ended badly: what its driver told, else what the cluster says."""
    try:
        return _told(hdfs.read(_told_path(key)).decode())
    except NotFoundError:
        said = cluster.said(application)
        return RunFailedError(f"Spark application {application} ({key}) ended {word}: {said}".rstrip(": "))


def _follow(cluster: clusters.Cluster, key: str, application: str, look: Callable[[], None]) -> dict[str, Any]:
    try:
        # a word that nobody knows is no end; the task's own timeout is the limit
        while cluster.states.get(word := cluster.state(application), clusters.RUNNING) == clusters.RUNNING:
            look()
            time.sleep(_PAUSE)
    except (NotFoundError, ServiceError):  # gone, or the cluster does not answer: the next try looks again
        raise
    except BaseException:
        with contextlib.suppress(AdinError):
            cluster.cancel(application)
        raise
    found = result(key)
    if found is None:
        raise failure(cluster, key, application, word)
    return found


def result(key: str) -> dict[str, Any] | None:
    """Return the result of a job that ended well, or None."""
    try:
        return dict(json.loads(hdfs.read(_result_path(key))))
    except NotFoundError:
        return None


def forget(key: str) -> None:
    """Delete a job's result, so that the next run works anew, and what it told of its progress."""
    for path in (_result_path(key), _progress_path(key)):
        hdfs.delete(path)


def _progress(key: str) -> dict[str, Any]:
    """Return what a job has told of how far it is; nothing where it has not yet, or HDFS does not answer now."""
    try:
        return dict(json.loads(hdfs.read(_progress_path(key))))
    except AdinError:
        return {}


def _payload(key: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"key": key, "result": _result_path(key), "progress": _progress_path(key), **arguments})


def _result_path(key: str) -> str:
    return f"/adin/jobs/{key}.json"


def _told_path(key: str) -> str:
    return f"/adin/jobs/{key}.error"


def _progress_path(key: str) -> str:
    return f"/adin/jobs/{key}.progress"


def _script(job: str) -> Path:
    script = ROOT / "include" / "spark" / f"{job}.py"
    if not script.is_file():
        raise NotFoundError(f"No Spark job {job!r} in {script.parent}.")
    return script


def _conf(conn: Connection) -> dict[str, str]:
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
            # set other options in the connection's conf
            "spark.driver.extraJavaOptions": driver_options(),
            # listing many folders is one task a folder otherwise
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        }
    return conf | {str(name): str(value) for name, value in (extra.get("conf") or {}).items()}


def failed(key: str, log: str, shown: str) -> AdinError:
    """Return the error of a job that did not say what was wrong.

    :param log: where a server that is away can be read from.
    :param shown: what the error shows of it otherwise.
    """
    if found := _UNREACHABLE.search(log):
        line = next(line for line in log.splitlines() if found[0] in line)
        return ServiceError(f"Spark job {key} reached no server: {line.strip()[:300]}", "Is the stack up?")
    return RunFailedError(f"Spark job {key} failed:\n{shown}")


def _error(key: str, log: str) -> AdinError:
    for line in log.splitlines():
        if line.startswith(ERROR_MARK):
            return _told(line.removeprefix(ERROR_MARK))
    return failed(key, log, "\n".join(log.splitlines()[-15:]))


def _told(text: str) -> AdinError:
    told = json.loads(text)
    kind: type[AdinError] = getattr(errors, told["kind"], RunFailedError)
    return kind(told["message"])
