"""What all tests share: a home for Airflow, the choice of one flow, and the printed test document."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from matrix import pytest_runtest_makereport  # noqa: F401 - a hook
from server_fixtures import clickhouse_server, edition, empty, model, redis_server, servers, stack  # noqa: F401 - fixtures of all tests

# Airflow reads its home when it is first imported: give it an empty one, never the user's
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="adin-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")


#: The ML environment has no Airflow; it runs only the tests marked for it, and reads only files which hold some.
_ML = find_spec("airflow") is None
_WHOLE_FILE_ML = re.compile(r"^pytestmark = .*mark\.ml\b", re.MULTILINE)

if not _ML:
    import hypothesis

    # how long an example takes is a matter of the machine
    hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("untimed")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text()
    foreign = "mark.ml" not in text if _ML else _WHOLE_FILE_ML.search(text)
    return True if foreign else None  # False would overrule --ignore


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flow", type=int, help="only the tests that prove this flow")
    parser.addoption("--testdoc", action="store_true", help="print the test document and run nothing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    flow = config.getoption("--flow")
    if flow is not None:
        chosen = [item for item in items if flow in _flows(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    if config.getoption("--testdoc"):
        for item in items:
            title = item.name.removeprefix("test_").replace("_", " ")
            flows = ", ".join(map(str, sorted(_flows(item)))) or "-"
            print(f"{title:<110} {_kind(item):<12} flow {flows}")
        items[:] = []


def _flows(item: pytest.Item) -> set[int]:
    return {number for marker in item.iter_markers("flow") for number in marker.args}


def _kind(item: pytest.Item) -> str:
    return Path(item.path).relative_to(Path(__file__).parent).parts[0]
