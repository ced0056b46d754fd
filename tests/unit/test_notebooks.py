"""The shipped notebooks: valid, without outputs, and made of code that can be read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from adin.settings import ROOT

pytestmark = [pytest.mark.ml, pytest.mark.flow(25)]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook_for_each_thing_people_do():
    assert [book.stem.partition("_")[2] for book in BOOKS] == ["explore", "feature", "train", "roll_back"]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_is_valid_holds_no_output_and_takes_its_problem_as_a_parameter(book: Path):
    import nbformat

    read = nbformat.read(book, as_version=4)
    nbformat.validate(read)
    code = [cell for cell in read.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for cell in code:
        ast.parse(cell.source)
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert parameters.source.startswith("problem = ")
    assert "import adin" in "".join(cell.source for cell in code)
    assert not re.search(r"password|token|ADIN_CONN|/home/|/root/", book.read_text())
    assert book.stat().st_size < 10_000
