"""A complete manifest and artefacts for the tests of the registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adin.models import Registry


def facts(**more: Any) -> dict[str, Any]:
    """Return what one gives to register a version."""
    return {
        "dataset": "7a78d0e6" * 5,
        "window": "2013-01-01T00:00:00Z/2014-01-01T00:00:00Z",
        "sources": {"flights.origin_2h": {"2013-01-01": "aa", "2013-01-02": "bb"}},
        "service": "flights_delay",
        "registry": "c0ffee",
        "features": ["origin_2h__mean_delay", "distance"],
        "signature": {
            "inputs": {"origin_2h__mean_delay": "float64", "distance": "int64"},
            "output": {"dtype": "float64", "kind": "probability"},
        },
        "parameters": {"max_iter": 200},
        "metrics": {"test": {"all": {"auc": 0.72, "log_loss": 0.5}}},
        "code_version": "abc123",
        "kfp_run": "run-1",
        "owner": "ops-analytics",
    } | more


def files(folder: Path) -> dict[str, Path]:
    """Write artefacts no other version has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.joblib").write_bytes(os.urandom(2000))
    (folder / "notes.txt").write_text("hello")
    return {"model.joblib": folder / "model.joblib", "notes.txt": folder / "notes.txt"}


def register(models: Registry, model: str, artefacts: dict[str, Path], key: str, **more: Any) -> int:
    """Register a version and return its number."""
    return models.register(model, facts(**more), artefacts, actor="test", run_key=key).number


def validated(models: Registry, model: str, artefacts: dict[str, Path], key: str) -> int:
    """Register a version which may be promoted, and return its number."""
    number = register(models, model, artefacts, key)
    models.append(model, "validate", version=number, actor="test", reason="checks passed", run_key=key)
    return number
