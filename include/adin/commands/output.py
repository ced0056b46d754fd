"""How every command answers: a table for people, one JSON document with ``--json``."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

console = Console()
errors = Console(stderr=True)


def emit(document: Any) -> None:
    """Print a JSON document."""
    typer.echo(json.dumps(document, indent=2, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Print rows below their column names."""
    shown = Table(*columns, title=title or None, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        # what others have named is no markup of ours
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(shown)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    for name, value in pairs.items():
        shown.add_row(name, "" if value is None else str(value))
    console.print(shown)


def step(line: str) -> None:
    """Print one line of progress to stderr."""
    errors.print(f"[dim]·[/] {line}", highlight=False)


def actor() -> str:
    """Return who types, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"
