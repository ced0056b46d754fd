"""Kubeflow pipelines: their source, what their steps do, and a client that submits them."""

from __future__ import annotations

from pathlib import Path

from adin.errors import NotFoundError


def compiled(name: str) -> Path:
    """Return the compiled form of a pipeline, which stands beside its source.

    :raises NotFoundError: there is none of that name.
    """
    path = Path(__file__).with_name(f"{name}.yaml")
    if not path.is_file():
        raise NotFoundError(
            f"No compiled pipeline {name!r} in {path.parent}.", "Run `python -m adin.pipelines.compile`."
        )
    return path
