"""Compiled pipelines (IR): read from an upload, checked, and their arguments with them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from adin.errors import ConfigError

Spec = dict[str, Any]


def read(content: bytes) -> Spec:
    """Return the pipeline in an uploaded file: YAML or JSON, bare or inside ``.zip`` or ``.tar.gz``.

    :raises ConfigError: it is not a compiled pipeline.
    """
    try:
        documents = [doc for doc in yaml.safe_load_all(_unpacked(content)) if doc]
    except (
        yaml.YAMLError,
        UnicodeDecodeError,
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        RecursionError,
    ) as error:
        raise ConfigError(f"The pipeline file cannot be read: {error}.", "Upload a compiled pipeline.") from error
    if not documents:
        raise ConfigError("The pipeline file is empty.", "Upload a compiled pipeline.")
    if len(documents) > 1:
        return check({"pipeline_spec": documents[0], "platform_spec": documents[1]})
    return check(documents[0])


def check(spec: Any) -> Spec:
    """Return the pipeline itself, without its platform part, which says nothing to a local runner.

    :raises ConfigError: it is not a compiled pipeline.
    """
    inner = spec.get("pipeline_spec", spec) if isinstance(spec, dict) else None
    if not isinstance(inner, dict) or not isinstance(_within(inner, "pipelineInfo", "name"), str):
        raise ConfigError("Not a compiled pipeline: pipelineInfo.name is missing.", "Compile it with kfp 2.17.")
    if not isinstance(_within(inner, "root", "dag", "tasks"), dict):
        raise ConfigError(f"Pipeline {name(inner)} has no tasks.", "Compile it with kfp 2.17.")
    declared = _within(inner, "root", "inputDefinitions", "parameters") or {}
    if not isinstance(declared, dict) or not all(isinstance(kind, dict) for kind in declared.values()):
        raise ConfigError(f"Pipeline {name(inner)}: its parameters are no mapping.", "Compile it with kfp 2.17.")
    try:
        json.dumps(inner)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"Pipeline {name(inner)} holds what JSON has not: {error}.", "Compile it anew.") from None
    return inner


def _within(value: Any, *keys: str) -> Any:
    """Return what lies below keys, one inside the other; None where there is none, or nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value or None


def name(spec: Spec) -> str:
    """Return the name the pipeline was compiled with."""
    return str(spec["pipelineInfo"]["name"])


def digest(spec: Spec) -> tuple[str, str]:
    """Return the hash of a pipeline and its text as stored."""
    text = json.dumps(spec, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), text


def arguments(spec: Spec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in the types the pipeline declares.

    :raises ConfigError: one is unknown, missing, or of another type.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ConfigError(
            f"Pipeline {name(spec)} has no parameter {', '.join(unknown)}.",
            f"It has: {', '.join(sorted(declared)) or 'none'}.",
        )
    missing = sorted(
        key for key, kind in declared.items() if key not in given and "defaultValue" not in kind and not _optional(kind)
    )
    if missing:
        raise ConfigError(f"Pipeline {name(spec)} needs a value for {', '.join(missing)}.")
    return {key: _typed(name(spec), key, value, declared[key]) for key, value in given.items()}


def _typed(pipeline: str, key: str, value: Any, declared: Mapping[str, Any]) -> Any:
    kind = declared.get("parameterType", "")
    if value is None and _optional(declared):
        return None
    if kind in _TYPES and not _TYPES[kind](value):
        raise ConfigError(f"Pipeline {pipeline}: {key} must be {kind}, not {value!r}.")
    # JSON knows one kind of number: 3.0 may well be the whole number 3
    if kind == "NUMBER_INTEGER":
        return int(value)
    return float(value) if kind == "NUMBER_DOUBLE" else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "STRING": lambda value: isinstance(value, str),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "NUMBER_INTEGER": lambda value: _number(value) and float(value).is_integer(),
    "NUMBER_DOUBLE": _number,
    "LIST": lambda value: isinstance(value, list),
    "STRUCT": lambda value: isinstance(value, dict),
}


def _optional(declared: Mapping[str, Any]) -> bool:
    return bool(declared.get("isOptional"))


def _unpacked(content: bytes) -> str:
    if content[:2] == b"\x1f\x8b":
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            names = [member for member in archive.getnames() if member.endswith((".yaml", ".yml", ".json"))]
            found = archive.extractfile(names[0]) if names else None
            return found.read().decode() if found else ""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [member for member in archive.namelist() if member.endswith((".yaml", ".yml", ".json"))]
            return archive.read(names[0]).decode() if names else ""
    return content.decode()
