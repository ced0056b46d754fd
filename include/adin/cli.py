"""The command ``adin``. Exit codes: 0 done, 1 an error of the platform or its input, 2 wrong usage."""

from __future__ import annotations

import importlib
import sys

import typer

from adin.commands.output import errors
from adin.errors import AdinError

#: Groups and single commands, by the module below adin.commands that holds them.
_GROUPS = ("stack", "problem", "features", "dataset", "model", "ct", "drift")
_COMMANDS = ("predict", "demo", "bench")
#: Commands that hand all they are given to another program.
_PASSED_ON = ("airflow",)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Adin MLOps: from raw data to a model under load.")


def _register() -> None:
    for name in _GROUPS:
        module = importlib.import_module(f"adin.commands.{name}")
        app.add_typer(module.app, name=name, help=(module.__doc__ or "").splitlines()[0])
    for name in _COMMANDS:
        module = importlib.import_module(f"adin.commands.{name}")
        app.command(name)(getattr(module, name))
    for name in _PASSED_ON:
        module = importlib.import_module(f"adin.commands.{name}")
        options = {"ignore_unknown_options": True, "help_option_names": []}
        app.command(name, context_settings=options)(getattr(module, name))


def main() -> None:
    """Run the command line; an error of ours becomes one line and exit code 1."""
    _register()
    try:
        app()
    except AdinError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
