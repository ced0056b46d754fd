"""Kubeflow pipelines: their source, what their steps do, and a client that submits them."""

from __future__ import annotations

from pathlib import Path

from adin.errors import ConfigError, NotFoundError


def compiled(name: str) -> Path:
    """Return the compiled form of a pipeline, which stands beside its source.

    :param name: one of ours, or the path of a compiled ``.yaml``.
    :raises NotFoundError: there is none of that name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path(__file__).with_name(f"{name}.yaml")
    if not path.is_file():
        raise NotFoundError(
            f"No compiled pipeline {name!r} in {path.parent}.", "Run `python -m adin.pipelines.compile`."
        )
    return path


def parameters(path: Path) -> set[str]:
    """Return the names of what a compiled pipeline takes.

    :raises ConfigError: the file is no compiled pipeline.
    """
    import yaml

    try:
        root = next(yaml.safe_load_all(path.read_text()))["root"]
        return set(root.get("inputDefinitions", {}).get("parameters", {}))
    except (OSError, yaml.YAMLError, StopIteration, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a compiled pipeline.", "Compile the pipelines.") from error
