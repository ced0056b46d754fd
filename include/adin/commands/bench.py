"""Ours, the stock tool and the limit side by side."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from adin.settings import ROOT


def bench(rows: Annotated[list[str] | None, typer.Argument(help="Rows; default all.")] = None) -> None:
    """Measure on the running stack and print ratios; results are compared before they are timed.

    Example: adin bench serving
    """
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "bench", *(rows or [])])  # noqa: S606 - no shell
