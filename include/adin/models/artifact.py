"""A trained model as files: ``model.joblib`` and the ``train.py`` that made it.

The pickle names its classes by a module made from the hash of ``train.py``, so that versions whose code differs live
side by side in one process. Open only files whose hashes were verified (:meth:`adin.models.Registry.download`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from adin.errors import ConfigError

MODEL, CODE = "model.joblib", "train.py"
#: Test rows with the evaluation's predictions, in the column REPLAYED; the model server must find the same.
REPLAY, REPLAYED = "replay.parquet", "_prediction"


def code(path: Path) -> ModuleType:
    """Import a ``train.py`` under a name of its own.

    :raises ConfigError: it cannot be imported.
    """
    name = f"adin_train_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be imported: {error!r}.") from error
    return module


def save(model: Any, source: Path, folder: Path) -> None:
    """Write a model made by ``code(source)``, with a copy of that file."""
    import joblib

    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / MODEL, compress=3)
    shutil.copy(source, folder / CODE)


def load(folder: Path) -> Any:
    """Return the model of a folder whose files were verified."""
    import joblib

    code(folder / CODE)
    return joblib.load(folder / MODEL)
