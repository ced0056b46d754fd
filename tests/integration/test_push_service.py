"""The push API of the running stack, as its own connection reaches it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from adin.commands.features import app
from adin.connections import connection
from adin.features import online, repo
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(11, 12)


def test_the_stacks_own_connection_may_push_to_every_view_and_serving_reads_it(tmp_path: Path) -> None:
    assert httpx.get(f"{connection('push').url}/health/ready").status_code == 200
    tail = f"N{uuid4().hex[:8]}"
    file = tmp_path / "rows.json"
    now = datetime.now(UTC).isoformat()
    file.write_text(
        json.dumps([{"tailnum": tail, "last_delay": 31.5, "departed_at": 1388534400, "event_timestamp": now}])
    )
    done = CliRunner().invoke(app, ["push", "tail_last", str(file), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["written"] == 1
    view = repo.domain("flights").view("tail_last")
    columns, _ = online.OnlineReader(repo.Service("one", (view,), (), (), ())).read([{"tailnum": tail}])
    assert columns["tail_last__last_delay"][0] == 31.5
