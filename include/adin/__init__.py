"""Adin MLOps SDK: features, dataset versions, model versions and serving, without Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adin.notebook import Dataset, Model

__all__ = ["dataset", "model"]


def dataset(problem: str, *, commit: str = "", window: tuple[str, str] | None = None, branch: str = "") -> Dataset:
    """Return a dataset version to look at: by commit, by window, or the newest; see :mod:`adin.notebook`."""
    from adin.notebook import Dataset

    return Dataset.of(problem, commit=commit, window=window, branch=branch)


def model(problem: str) -> Model:
    """Return a problem's model to look at: its versions, its champion; see :mod:`adin.notebook`."""
    from adin.notebook import Model

    return Model(problem)
