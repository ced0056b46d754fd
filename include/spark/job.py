"""What every job shares: its session, its arguments, and how it tells its end."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from adin.errors import AdinError, DataError
from adin.features.jobs import ERROR_MARK, failed
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession


def main(work: Callable[[SparkSession, dict[str, Any]], dict[str, Any]], *, tables: bool = False) -> None:
    """Run a job with the arguments it was submitted with; keep its result in HDFS or tell what was wrong.

    :param tables: the job names Hive tables. Spark's Hive client takes seconds to load, so only who needs it gets it.
    """
    arguments = json.loads(sys.argv[1])
    builder = SparkSession.builder
    session = (builder.enableHiveSupport() if tables else builder).getOrCreate()
    try:
        result = work(session, arguments) | {
            "key": arguments["key"],
            "application_id": session.sparkContext.applicationId,
        }
        _write(session, arguments["result"], json.dumps(result))
    except AdinError as error:
        _tell(session, arguments, error)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        _tell(session, arguments, _meant(error, arguments["key"]))
        sys.exit(1)
    finally:
        session.stop()


def _meant(error: Exception, key: str) -> AdinError:
    """Return in our terms what went wrong."""
    if corrupt := _corrupt_file(error):
        return DataError(f"{corrupt} cannot be read as Parquet.", "Load that raw partition again, then retry.")
    shown = "\n".join(f"{type(error).__name__}: {error}".splitlines()[:15])
    return failed(key, "".join(traceback.format_exception(error)), shown)


def _tell(session: SparkSession, arguments: dict[str, Any], error: AdinError) -> None:
    """Tell whoever waits: on stderr, or, where the driver is nobody's child, by a file."""
    told = json.dumps({"kind": type(error).__name__, "message": str(error)})
    print(ERROR_MARK + told, file=sys.stderr)
    if path := arguments.get("tell"):
        _write(session, path, told)


def _corrupt_file(error: Exception) -> str:
    """Return the file which Spark could not read, if that is what went wrong."""
    text = str(error) if isinstance(error, PySparkException) else f"{error} {getattr(error, 'java_exception', '')}"
    if not re.search(r"FAILED_READ_FILE|is not a Parquet file|CANNOT_READ_FILE_FOOTER|Could not read footer", text):
        return ""
    found = re.search(r"hdfs://[^\s'\"\]]+?\.parquet", text)
    return found[0] if found else ""


def _write(session: SparkSession, path: str, text: str) -> None:
    """Write a small file through Hadoop's own client: to a name of its own, then renamed."""
    gateway: Any = session.sparkContext._jvm
    jsc: Any = session.sparkContext._jsc
    files = gateway.org.apache.hadoop.fs.FileSystem.get(jsc.hadoopConfiguration())
    target, part = (gateway.org.apache.hadoop.fs.Path(name) for name in (path, f"{path}.part"))
    stream = files.create(part, True)
    stream.write(bytearray(text.encode()))
    stream.close()
    files.delete(target, False)
    files.rename(part, target)
