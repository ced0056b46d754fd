"""The matrix operators x fault cases: kept from the tests' results, printed, and written to the docs.

``python tests/matrix.py`` prints what the last runs have found.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "matrix.json"
PAGE = ROOT / "docs" / "operators.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
_SIGNS = {"passed": "yes", "failed": "NO", "na": "n/a"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Keep how a test marked as ``case(operator, case)`` ended."""
    report = yield
    marker = item.get_closest_marker("case")
    if marker and (report.when == "call" or report.failed):
        _keep(*marker.args, report.outcome)
    return report


def _keep(operator: str, case: str, outcome: str) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    # contract and integration tests run side by side
    with RESULTS.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        known.setdefault(operator, {})[case] = outcome
        file.truncate(0)
        file.write(json.dumps(known, indent=1))


def table(results: dict[str, dict[str, str]], cases: dict[str, str], absent: dict[str, dict[str, str]]) -> str:
    """Return the matrix as Markdown, a row a case; :param absent: reasons why a case makes no sense for an operator."""
    operators = [*absent]
    lines = [f"| case | {' | '.join(operators)} |", f"|---|{'---|' * len(operators)}"]
    reasons: list[str] = []
    for case, title in cases.items():
        cells = []
        for operator in operators:
            if reason := absent[operator].get(case):
                if reason not in reasons:
                    reasons.append(reason)
                cells.append(f"n/a ({reasons.index(reason) + 1})")
            else:
                cells.append(_SIGNS.get(results.get(operator, {}).get(case, ""), "not run"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))])


def main() -> int:
    """Print the matrix and write it to the docs; fail if a case has failed or has not run."""
    from operator_cases import ABSENT, CASES

    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    text = table(results, CASES, ABSENT)
    print(text)
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    wanted = [(operator, case) for operator in ABSENT for case in CASES if case not in ABSENT[operator]]
    return int(any(results.get(operator, {}).get(case) != "passed" for operator, case in wanted))


if __name__ == "__main__":
    raise SystemExit(main())
