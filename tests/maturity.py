"""How mature our own modules are, counted from the code and the tests: ``make maturity`` writes docs/maturity.md."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADIN = ROOT / "include" / "adin"
PAGE = ROOT / "docs" / "maturity.md"
KINDS = ("unit", "contract", "integration", "regression", "acceptance")
#: A title that speaks of a fault; the same words everywhere, so that modules can be compared.
FAULT = re.compile(
    r"kill|crash|dies|died|dead|lost|lose|away|down|fail|broken|damage|corrupt|hang|hung|timeout|race|concurrent|refus|"
    r"wrong|missing|stale|late|conflict|undone|repair|reconcil|retr"
)
HEAD = """# Maturity of our own modules

Counted by `make maturity` from code and tests; do not edit.

| level | a module |
|---|---|
| 1 | is typed (95 % of its functions whole, mypy strict) and documented (90 % of what is public) |
| 2 | and has five tests |
| 3 | and tests on real servers or processes, and five that name a fault |
| 4 | and is measured beside others (`make bench`) |

A test counts for each module its file imports, a bench too. A fault is recognised by the test's title (killed, lost,
refused, ..). Where kfp reads a function's annotations, none means no output.
What is typed or documented says nothing of how well; the tests' titles do: `make testdoc`.

| module | level | typed | documented | unit | contract | integration | regression | acceptance | faults | benches |
|---|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass
class Module:
    """What was counted of one package or module below ``adin``."""

    name: str
    functions: list[bool] = field(default_factory=list)
    public: list[bool] = field(default_factory=list)
    tests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    faults: int = 0
    benches: int = 0

    @property
    def level(self) -> int:
        """Return the highest level whose criteria and all below it are met."""
        real = sum(self.tests[kind] for kind in KINDS[1:])
        steps = (
            share(self.functions) >= 95 and share(self.public) >= 90,
            sum(self.tests.values()) >= 5,
            real > 0 and self.faults >= 5,
            self.benches > 0,
        )
        return next((level for level, met in enumerate(steps) if not met), len(steps))

    @property
    def row(self) -> str:
        """Return the line of the table."""
        counts = " | ".join(str(self.tests[kind]) for kind in KINDS)
        typed, documented = f"{share(self.functions):.0f} %", f"{share(self.public):.0f} %"
        cells = (f"`adin.{self.name}`", self.level, typed, documented, counts, self.faults, self.benches)
        return f"| {' | '.join(map(str, cells))} |"


def share(found: list[bool]) -> float:
    """Return how many per cent are so; of nothing all are."""
    return 100 * sum(found) / len(found) if found else 100


def modules() -> list[Module]:
    """Return all modules with what was counted."""
    found = {name: Module(name) for name in names()}
    for path in sorted(ADIN.rglob("*.py")):
        owner = path.relative_to(ADIN).parts[0].removesuffix(".py")
        if owner in found:
            _code(found[owner], ast.parse(path.read_text()))
    for kind in KINDS:
        for path in sorted((ROOT / "tests" / kind).rglob("test_*.py")):
            tree = ast.parse(path.read_text())
            titles = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            titles = [title for title in titles if title.startswith("test_")]
            for name in imported(tree) & set(found):
                found[name].tests[kind] += len(titles)
                found[name].faults += sum(bool(FAULT.search(title)) for title in titles)
    for path in sorted((ROOT / "bench").glob("*.py")):
        for name in imported(ast.parse(path.read_text())) & set(found):
            found[name].benches += 1
    return [found[name] for name in sorted(found)]


def names() -> list[str]:
    """Return the packages and modules right below ``adin``."""
    packages = [path.parent.name for path in ADIN.glob("*/__init__.py")]
    return sorted([*packages, *(path.stem for path in ADIN.glob("*.py") if path.stem != "__init__")])


def imported(tree: ast.AST) -> set[str]:
    """Return the modules below ``adin`` which a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "adin":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adin."):
            found.add(str(node.module).split(".")[1])
    return found


def _code(module: Module, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            whole = all(each.annotation or each.arg in ("self", "cls") for each in given)
            free = node.name == "__init__" or "dsl." in ast.unparse(node.args) or _of_kfp(node)
            module.functions.append(bool(whole and (node.returns or free)))
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in public:
        if not node.name.startswith("_"):
            module.public.append(ast.get_docstring(node) is not None)


def _of_kfp(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(each).partition("(")[0] in ("step", "dsl.pipeline") for each in node.decorator_list)


def page() -> str:
    """Return the page as it should read now."""
    return HEAD + "\n".join(module.row for module in modules()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
