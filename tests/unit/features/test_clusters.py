from __future__ import annotations

import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from adin.connections import Connection
from adin.errors import ConfigError
from adin.features import clusters, spark_submit

SPARK = Connection("spark", "yarn", extra={"deploy_mode": "cluster", "resourcemanager": "https://rm:8090"})


def test_where_drivers_run_is_read_from_the_connection():
    assert clusters.of(replace(SPARK, host="local[2]")) is None
    assert clusters.of(replace(SPARK, extra={})) is None, "a client-mode driver is a child of its task"
    yarn = clusters.of(SPARK)
    assert isinstance(yarn, clusters.Yarn)
    assert yarn.link("application_1") == "https://rm:8090/cluster/app/application_1"
    kube = replace(SPARK, host="k8s://https://kube:6443", password="token")
    assert isinstance(clusters.of(kube), clusters.Kubernetes)
    with pytest.raises(ConfigError, match=r"runs no driver written in Python\. Set deploy_mode to client"):
        clusters.of(replace(SPARK, host="spark://master:7077"))
    with pytest.raises(ConfigError, match="no resourcemanager"):
        clusters.of(replace(SPARK, extra={"deploy_mode": "cluster"}))


def test_a_spark_application_is_ours_with_what_the_connection_adds():
    application = {"executor": {"instances": 8}, "driver": {"serviceAccount": "spark"}}
    extra = {"deploy_mode": "cluster", "image": "adin/airflow:1", "application": application}
    kube = clusters.Kubernetes(Connection("spark", "k8s://https://kube:6443", password="token", extra=extra))
    spec = kube._spec({"spark.sql.session.timeZone": "UTC"}, "ingest", "{}")
    assert spec["executor"]["instances"] == 8
    assert spec["driver"]["serviceAccount"] == "spark"
    assert spec["executor"]["memory"] == spec["driver"]["memory"]
    assert (spec["image"], spec["restartPolicy"]) == ("adin/airflow:1", {"type": "Never"})
    bare = clusters.Kubernetes(Connection("spark", "k8s://https://kube:6443", password="token"))
    with pytest.raises(ConfigError, match="no image"):
        bare._spec({}, "ingest", "{}")


@pytest.mark.parametrize(
    ("state", "final", "word", "means"),
    [
        ("ACCEPTED", "UNDEFINED", "ACCEPTED", clusters.RUNNING),
        ("FINISHED", "SUCCEEDED", "SUCCEEDED", clusters.SUCCEEDED),
        ("FINISHED", "FAILED", "FAILED", clusters.FAILED),
        ("FINISHED", "UNDEFINED", "ENDED", clusters.FAILED),
        ("KILLED", "KILLED", "KILLED", clusters.FAILED),
    ],
)
def test_a_finished_yarn_application_counts_by_what_it_made_of_itself(state, final, word, means):
    found = clusters._word({"state": state, "finalStatus": final})
    assert (found, clusters.Yarn.states[found]) == (word, means)


def test_a_driver_elsewhere_gets_settings_and_connections_but_no_path_of_this_machine(monkeypatch):
    monkeypatch.setenv("ADIN_RAW_ROOT", "/raw-2")
    monkeypatch.setenv("ADIN_HOME", "/somewhere/here")
    monkeypatch.setenv("ADIN_CONN_SPARK", SPARK.uri)
    monkeypatch.setenv("ADIN_CONN_AMVERSION", "adin-amversion://user:word@host:1/models")
    found = clusters._environment()
    assert found["ADIN_RAW_ROOT"] == "/raw-2"
    assert found["ADIN_CONN_SPARK"] == SPARK.uri
    assert not {"ADIN_HOME", "ADIN_CONN_AMVERSION"} & set(found)


def test_the_code_travels_as_it_lies_below_the_project(tmp_path):
    names = set(zipfile.ZipFile(clusters._code(tmp_path)).namelist())
    assert {"include/adin/settings.py", "include/spark/ingest.py", "include/spark/job.py"} <= names
    assert {"feature_repo/flights/raw.yaml", "include/problems/flights_delay/problem.yaml"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_properties_go_by_a_private_file_and_not_by_the_command_line(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "spark-submit"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'echo "$@"; while [ "$1" != --properties-file ]; do shift; done\n'
        'stat -c %a "$(dirname "$2")"; cat "$2"; echo "$HADOOP_CONF_DIR"; exit 3\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(spark_submit.sys, "executable", str(program.with_name("python")))
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    conf = {"spark.hadoop.fs.s3a.secret.key": "a\\b", "spark.driver.memory": "1g"}
    code, log = spark_submit.spark_submit(["--master", "yarn"], conf, Path("job.py"), '{"a": 1}')
    command, mode, *properties, hadoop = log.splitlines()
    assert (code, mode) == (3, "700")
    assert command.startswith("--master yarn --properties-file /")
    assert command.endswith('job.py {"a": 1}')
    assert "secret" not in command
    assert properties == ["spark.hadoop.fs.s3a.secret.key a\\\\b", "spark.driver.memory 1g"]
    assert hadoop, "spark-submit asks for it where the master is YARN"


def test_whoever_waits_for_spark_submit_is_called_meanwhile_and_may_end_it(tmp_path, monkeypatch):
    program = tmp_path / "spark-submit"
    program.write_text("#!/bin/sh\nsleep $(echo \"$@\" | sed 's/.* //')\necho done\n")
    program.chmod(0o755)
    monkeypatch.setattr(spark_submit.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(spark_submit, "_PAUSE", 0.05)
    calls = []
    done = spark_submit.spark_submit([], {}, Path("job.py"), "0.5", on_wait=lambda: calls.append(1))
    assert done == (0, "done\n") and len(calls) > 2

    def give_up():
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        spark_submit.spark_submit([], {}, Path("job.py"), "60", on_wait=give_up)
    assert time.monotonic() - began < 30
