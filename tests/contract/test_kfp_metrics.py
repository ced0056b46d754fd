"""What local KFP tells of its runs: counted, and one line each step of the way, found by the run's id."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import kfp
import kfp_pipelines
import pytest
from kfp import compiler
from kfp_server import LocalKfp

pytestmark = [pytest.mark.ml, pytest.mark.flow(22, 26), pytest.mark.filterwarnings("ignore")]


def test_runs_are_counted_by_how_they_ended_and_logged_under_their_id_without_the_token(tmp_path: Path) -> None:
    compiler.Compiler().compile(kfp_pipelines.gated, str(tmp_path / "gated.yaml"))
    server = LocalKfp(tmp_path / "kfp").start()
    try:
        client = kfp.Client(host=server.conn.url, existing_token=server.token)
        arguments = {"score": 0.9, "path": str(tmp_path / "marks")}
        run = client.create_run_from_pipeline_package(str(tmp_path / "gated.yaml"), arguments, run_name="gated")
        client.wait_for_run_completion(run.run_id, timeout=120, sleep_duration=1)
        with urllib.request.urlopen(f"{server.conn.url}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
    finally:
        server.stop()
    for line in (
        'adin_kfp_runs_ended_total{state="SUCCEEDED"} 1.0',
        'adin_kfp_runs{state="waiting"} 0.0',
        "adin_kfp_run_seconds_count 1.0",
    ):
        assert line in metrics
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    mine = [line for line in lines if line.get("run") == run.run_id]
    assert [line["status"] for line in mine] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert {(line["service"], line["event"], line["task"]) for line in mine} == {("kfp", "run", "gated")}
    assert server.token not in server.log.read_text()
