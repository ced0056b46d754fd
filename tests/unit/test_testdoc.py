"""The test document has no hole: each flow of the architecture is proved on real servers or through real engines."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
#: Flows 1 to 26 of the architecture.
FLOWS = set(range(1, 27))


def flows_of(*kinds: str) -> set[int]:
    """Return the flows that tests of these kinds are marked with."""
    found: set[int] = set()
    for kind in kinds:
        for file in sorted((TESTS / kind).rglob("test_*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "flow":
                    found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def test_every_flow_is_proved_by_an_acceptance_integration_or_contract_test():
    assert FLOWS - flows_of("acceptance", "integration", "contract") == set()


def test_every_mark_names_a_flow_that_there_is():
    assert flows_of("acceptance", "integration", "contract", "unit", "regression") <= FLOWS
