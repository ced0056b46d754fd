"""A new problem that works at once: a feature domain with made data, and a problem that learns from it."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from adin.errors import ConfigError, ConflictError
from adin.settings import settings

_SUFFIX = ".txt"


def make(name: str, owner: str) -> list[Path]:
    """Write ``feature_repo/<name>`` and ``include/problems/<name>`` and return the two folders.

    :param owner: who answers for the problem.
    :raises ConfigError: the name cannot be one.
    :raises ConflictError: one of the folders is there already; nothing was written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
        raise ConfigError(f"{name!r} cannot be a problem's name.", "Use lower case letters, digits and _.")
    targets = {"feature_repo": settings().feature_repo / name, "problem": settings().problems / name}
    if there := [str(path) for path in targets.values() if path.exists()]:
        raise ConflictError(f"{' and '.join(there)} is there already.", "Choose another name.")
    done: list[Path] = []
    try:
        for part, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
                _fill(Path(__file__).with_name(part), Path(folder) / name, {"name": name, "owner": owner})
                (Path(folder) / name).rename(target)
            done.append(target)
    except BaseException:
        for target in done:
            shutil.rmtree(target)
        raise
    return done


def _fill(source: Path, target: Path, values: dict[str, str]) -> None:
    for file in sorted(source.rglob(f"*{_SUFFIX}")):
        path = target / str(file.relative_to(source)).removesuffix(_SUFFIX).replace("NAME", values["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(file.read_text()).substitute(values))
