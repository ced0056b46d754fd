"""The log lines of a whole training, shipped as we ship them, found by one search in a real OpenSearch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adin.settings import settings
from log_search import Search, programs, shipper
from waiting import until

pytestmark = pytest.mark.flow(26)


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    found = Search(programs(), tmp_path)
    yield found
    found.kill()


def test_one_search_by_airflows_run_finds_every_line_of_a_training_across_services(
    line, search: Search, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    home = Path(settings().home)
    tasks = home.joinpath("airflow", "logs", f"dag_id=train__{line.problem}", f"run_id={line.run}")
    written = sum(len(path.read_text().splitlines()) for path in tasks.rglob("*.log"))
    wanted = {"airflow-task", "airflow-scheduler", "kfp", "kserve"}
    search.start()
    with shipper(programs(), home, state, search.port):
        until(lambda: len(search.find(f'run:"{line.run}" AND service:airflow-task')) == written, seconds=120)
        # each file is shipped for itself: the services' lines come in any order
        until(lambda: wanted <= {one["service"] for one in search.find(f'"{line.run}"')}, seconds=60)
        until(lambda: search.find(f'"{line.run}" AND service:kserve AND event:swap'), seconds=60)
        found = search.find(f'"{line.run}"')
    told = [one["message"] for one in found if one["service"] == "airflow-task" and one["task"] == "train"]
    for step in ("load", "train", "evaluate", "register"):
        assert any(message.startswith(f"{step} | ") for message in told), step
