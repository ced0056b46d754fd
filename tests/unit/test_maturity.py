"""The page of maturity levels promises no more than can be counted."""

from __future__ import annotations

import ast
import re

import maturity
import pytest


def stated() -> dict[str, int]:
    """The level of each module, as the page says."""
    return {name: int(level) for name, level in re.findall(r"`adin\.(\w+)` \| (\d)", maturity.PAGE.read_text())}


def test_no_module_is_below_the_level_that_the_page_states():
    now = {module.name: module.level for module in maturity.modules()}
    told = stated()
    assert told
    fallen = {name: (level, now.get(name)) for name, level in told.items() if now.get(name, level) < level}
    assert not fallen, "raise the module again, or run `make maturity` and say why in the changelog"


def test_the_command_counts_every_module_and_the_page_is_of_its_making():
    made = maturity.page()
    assert maturity.PAGE.read_text().startswith(maturity.HEAD)
    assert all(f"`adin.{name}`" in made for name in maturity.names())


@pytest.mark.parametrize(
    ("code", "typed", "documented"),
    [
        ('def f(a: int) -> int:\n    """Do."""', [True], [True]),
        ("def f(a) -> int:\n    pass", [False], [False]),
        ('class _C:\n    def m(self, a: int) -> None:\n        """Do."""', [True], []),
    ],
)
def test_what_is_not_annotated_or_has_no_docstring_is_counted_as_such(code, typed, documented):
    module = maturity.Module("made")
    maturity._code(module, ast.parse(code))
    assert (module.functions, module.public) == (typed, documented)
    assert module.level == (1 if all(typed) and all(documented) else 0)
