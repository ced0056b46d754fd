"""Airflow's own command line, on this stack."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from adin.settings import ROOT


def airflow(arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of `airflow`.")] = None) -> None:
    """Run Airflow's command line against this stack.

    Example: adin airflow backfill create --dag-id features__flights --from-date 2013-03-01 --to-date 2013-03-03
    """
    from adin.stack.services import airflow_environment

    command = str(ROOT / ".venv" / "bin" / "airflow")
    os.execve(command, [command, *(arguments or [])], os.environ | airflow_environment())  # noqa: S606 - no shell
