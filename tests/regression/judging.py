"""The verdict on a scenario that runs on a part of stock Feast and on what stands in its place here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest

Judge = Callable[..., None]


@pytest.fixture(params=["stock", "ours"], ids=["stock-fails", "ours-holds"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whose part the scenario runs on."""
    return str(request.param)


@pytest.fixture
def judge(whose: str) -> Iterator[Judge]:
    """Compare what was found with what is right, or, on the stock part, with the defect; a test must do so once."""
    judged = []

    def compare(found: Any, *, right: Any, stock: Any) -> None:
        assert right != stock, "the scenario shows no defect"
        judged.append(found)
        if whose == "ours":
            assert found == right, found
        else:
            assert found != right, (
                f"Feast {version('feast')} has mended this defect: take it off the tables of stock defects in docs/, "
                "and look whether our own part is still needed for it"
            )
            assert found == stock, f"stock Feast fails in another way than it did: {found}"

    yield compare
    assert judged, "nothing was judged"
