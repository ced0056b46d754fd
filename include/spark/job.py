"""What every job shares: its session, its arguments, and how it tells its end."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from adin.errors import AdinError, DataError
from adin.features.jobs import ERROR_MARK, failed
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

#: Seconds between two looks at how far a job is.
_PAUSE = 2.0


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


@contextlib.contextmanager
def telling(session: SparkSession, arguments: dict[str, Any]) -> Iterator[None]:
    """While a block reads rows, exchanges and writes them, write down how many it has, where whoever waits looks.

    A task counts when it ends. What fails here does the job no harm.
    """
    over = threading.Event()

    def watch() -> None:
        last = read = taken = 0
        while not over.wait(_PAUSE):
            stages = _stages(session)
            read = max(read, sum(stage.inputRecords() for stage in stages))
            taken = max(taken, sum(stage.shuffleReadRecords() for stage in stages))
            if read + taken > last:
                last = read + taken
                _write(session, arguments["progress"], json.dumps({"read": read, "written": taken}))

    def guarded() -> None:
        try:
            watch()
        except Exception:
            traceback.print_exc()

    watching = threading.Thread(target=guarded, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _stages(session: SparkSession) -> list[Any]:
    """Return the stages that go, as Spark's own pages show them; it keeps them also where it shows no pages."""
    jsc: Any = session.sparkContext._jsc
    found = jsc.sc().statusStore().activeStages()
    return [found.apply(place) for place in range(found.size())]


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
