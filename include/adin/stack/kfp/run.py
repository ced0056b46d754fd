"""The process of one run: ``python -m adin.stack.kfp.run FOLDER``. Its folder is described in ``attempt``."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from adin.stack.kfp.attempt import birth, read_json, write_json

#: Seconds a run goes on without a server; a supervisor brings a crashed server back long before.
ORPHAN_LIMIT = 120


def main() -> None:
    """Run the pipeline in the folder and write down how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server-lock", type=Path, required=True)
    parser.add_argument("--earlier", type=Path)
    options = parser.parse_args()
    write_json(options.folder / "process.json", {"pid": os.getpid(), "birth": birth(os.getpid())})
    threading.Thread(target=_end_with_server, args=(options.server_lock,), daemon=True).start()
    try:
        result = _run(options.folder, options.earlier)
    except Exception as error:
        traceback.print_exc()
        result = {"state": "FAILED", "error": f"{type(error).__name__}: {error}"}
    write_json(options.folder / "result.json", result)
    sys.exit(0 if result["state"] == "SUCCEEDED" else 1)


def _run(folder: Path, earlier: Path | None) -> dict[str, Any]:
    # a run calls no API: without its client, and kubernetes below it, kfp is there in a quarter of the time
    sys.modules["kfp.client"] = ModuleType("kfp.client")
    vars(sys.modules["kfp.client"])["Client"] = None

    from google.protobuf import json_format
    from kfp import local
    from kfp.local import pipeline_orchestrator
    from kfp.pipeline_spec import pipeline_spec_pb2

    from adin.stack.kfp.tracking import Tracker

    logging.getLogger().setLevel(logging.INFO)
    spec = json_format.ParseDict(json.loads((folder / "spec.json").read_text()), pipeline_spec_pb2.PipelineSpec())
    tracker = Tracker(folder, earlier)
    tracker.install()
    # steps keep their outputs below the run, so that a retry in another attempt's folder finds them
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.parent / "outputs"),
        workspace_root=str(folder / "workspace"),
        enable_caching=False,
    )
    try:
        outputs = pipeline_orchestrator.run_local_pipeline(spec, read_json(folder / "arguments.json") or {})
    except Exception as error:
        tracker.skip_rest(spec)
        if not tracker.failures:
            raise
        first = tracker.failures[0]
        if not isinstance(error, RuntimeError):
            traceback.print_exc()
        return {"state": "FAILED", "error": f"Step {first['name']} failed: {first['error']}"}
    tracker.skip_rest(spec)
    return {"state": "SUCCEEDED", "outputs": tracker.portable(outputs)}


def _end_with_server(lock: Path) -> None:
    alone_since = None
    while True:
        time.sleep(5)
        if not _free(lock):
            alone_since = None
            continue
        alone_since = alone_since or time.monotonic()
        if time.monotonic() - alone_since > ORPHAN_LIMIT:
            sys.stderr.write(f"The server has been away for {ORPHAN_LIMIT} seconds; the run ends.\n")
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _free(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    main()
