"""A Spark driver starts from the archive of classes that set-up made."""

from __future__ import annotations

from pathlib import Path

import pytest
from adin.features.spark_submit import driver_options, spark_submit

pytestmark = pytest.mark.flow(2)


def test_a_driver_takes_its_classes_from_the_archive_and_not_from_jars(tmp_path: Path) -> None:
    if "SharedArchiveFile" not in driver_options():
        pytest.skip("set-up makes an archive for Java 17 only")
    loaded, script = tmp_path / "loaded", tmp_path / "job.py"
    script.write_text("from pyspark.sql import SparkSession\nSparkSession.builder.getOrCreate().stop()\n")
    conf = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"{driver_options()} -Xlog:class+load:file={loaded}",
        "spark.ui.enabled": "false",
    }
    code, log = spark_submit(["--master", "local[1]"], conf, script, "")
    assert code == 0, log
    lines = [line for line in loaded.read_text().splitlines() if " org.apache.spark." in line]
    archived = [line for line in lines if "shared objects file (top)" in line]
    from_jars = [line for line in lines if "source: file:" in line]  # the rest is made while it runs
    assert len(archived) > 10 * len(from_jars)
