"""Real clusters for Spark on this machine: YARN, and Spark's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import urllib3
from adin.connections import Connection, connection
from adin.stack.layout import hadoop_class_path, java, site_packages
from redis_server import free_port
from waiting import until

_SERVERS = "org.apache.hadoop.yarn.server"
_MAINS = (f"{_SERVERS}.resourcemanager.ResourceManager", f"{_SERVERS}.nodemanager.NodeManager")


@contextmanager
def yarn(folder: Path) -> Iterator[Connection]:
    """Yield the stack's connection ``spark``, with YARN in cluster mode as its master.

    It has one node, which runs containers as its own child processes.
    """
    ports = {
        f"yarn.{name}": f"127.0.0.1:{free_port()}"
        for name in (
            "resourcemanager.address",
            "resourcemanager.scheduler.address",
            "resourcemanager.resource-tracker.address",
            "resourcemanager.admin.address",
            "resourcemanager.webapp.address",
            "nodemanager.address",
            "nodemanager.localizer.address",
            "nodemanager.webapp.address",
        )
    }
    options = ports | {
        "yarn.resourcemanager.hostname": "127.0.0.1",
        "yarn.resourcemanager.bind-host": "127.0.0.1",
        "yarn.nodemanager.hostname": "127.0.0.1",
        "yarn.nodemanager.bind-host": "127.0.0.1",
        "yarn.nodemanager.local-dirs": folder / "local",
        "yarn.nodemanager.log-dirs": folder / "logs",
        "yarn.nodemanager.resource.memory-mb": 6144,
        "yarn.nodemanager.resource.cpu-vcores": 4,
        "yarn.nodemanager.vmem-check-enabled": "false",
        "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 99,
        # a stopped container is killed at once, not after a quarter of a second's patience and its own clean-up
        "yarn.nodemanager.sleep-delay-before-sigkill.ms": 100,
        "yarn.scheduler.minimum-allocation-mb": 256,
        "yarn.resourcemanager.scheduler.class": f"{_SERVERS}.resourcemanager.scheduler.fifo.FifoScheduler",
        "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": 100,
    }
    conn = connection("spark")
    _write(folder / "yarn-site.xml", options)
    _write(folder / "core-site.xml", {"fs.defaultFS": conn.extra["namenode"], "hadoop.tmp.dir": folder / "tmp"})
    address = f"http://{ports['yarn.resourcemanager.webapp.address']}"
    commands = [["-cp", hadoop_class_path(folder), main] for main in _MAINS]
    with _running(folder, commands):
        until(lambda: _nodes(address), seconds=120)
        conf = {
            **{f"spark.hadoop.{name}": value for name, value in ports.items() if "resourcemanager" in name},
            **{"spark.driver.memory": "1g", "spark.executor.memory": "1g", "spark.executor.instances": "1"},
            # the node has Spark where we have it: nothing is uploaded
            "spark.yarn.jars": f"local:{site_packages()}/pyspark/jars/*",
            # the address of the machine's own name may lead elsewhere
            **{f"spark.{each}.SPARK_LOCAL_IP": "127.0.0.1" for each in ("yarn.appMasterEnv", "executorEnv")},
        }
        yield replace(
            conn,
            host="yarn",
            extra={**conn.extra, "deploy_mode": "cluster", "resourcemanager": address, "conf": conf},
        )


@contextmanager
def standalone(folder: Path) -> Iterator[Connection]:
    """Yield the stack's connection ``spark``, with a stand-alone cluster of one worker as its master."""
    port, web = free_port(), free_port()
    master, jars = f"spark://127.0.0.1:{port}", f"{site_packages()}/pyspark/jars/*"
    listens = ["--host", "127.0.0.1", "--webui-port"]
    offers = ["--cores", "2", "--memory", "1g", "--work-dir", str(folder / "work")]
    commands = [
        ["-cp", jars, "org.apache.spark.deploy.master.Master", *listens, str(web), "--port", str(port)],
        ["-cp", jars, "org.apache.spark.deploy.worker.Worker", *listens, "0", *offers, master],
    ]
    conn = connection("spark")
    conf = {"spark.executor.memory": "512m", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    spark = {"SPARK_HOME": f"{site_packages()}/pyspark", "SPARK_SCALA_VERSION": "2.13", "SPARK_LOCAL_IP": "127.0.0.1"}
    with _running(folder, commands, **spark):
        until(lambda: _workers(f"http://127.0.0.1:{web}"), seconds=120)
        yield replace(conn, host=master, extra={**conn.extra, "conf": conf})


@contextmanager
def _running(folder: Path, commands: list[list[str]], **environment: str) -> Iterator[None]:
    """Run Java programs until the end of the block."""
    small = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "--add-opens=java.base/java.lang=ALL-UNNAMED"]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [str(java()), *small, *command],
                        stdout=log,
                        stderr=log,
                        cwd=folder,
                        env=os.environ | environment,
                    )
                )
        yield
    finally:
        for process in reversed(running):
            process.kill()
            process.wait(60)


def applications(conn: Connection) -> dict[str, dict[str, Any]]:
    """Return what the resource manager knows, by id."""
    found = urllib3.request("GET", f"{conn.extra['resourcemanager']}/ws/v1/cluster/apps").json()
    return {app["id"]: app for app in (found.get("apps") or {}).get("app", ())}


def _nodes(address: str) -> bool:
    found = _told(f"{address}/ws/v1/cluster/nodes").get("nodes") or {}
    return any(node["state"] == "RUNNING" for node in found.get("node", ()))


def _workers(address: str) -> bool:
    return bool(_told(f"{address}/json/").get("aliveworkers"))


def _told(address: str) -> dict[str, Any]:
    """Return what a server says of itself; nothing while it starts: its port answers 404 before its pages are there."""
    try:
        answer = urllib3.request("GET", address, retries=False, timeout=5)
    except urllib3.exceptions.HTTPError:
        return {}
    return dict(answer.json()) if answer.status == 200 else {}


def _write(path: Path, options: dict[str, Any]) -> None:
    each = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>\n" for name, value in options.items()
    )
    path.write_text(f"<configuration>\n{each}</configuration>\n")
