"""What a model version is made of: one immutable document, complete or refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from adin.errors import ConfigError, DataError
from adin.window import Window

#: Model names are parts of object keys and of URLs.
NAME = r"^[a-z][a-z0-9_-]{0,99}$"
_SHA256 = r"^[0-9a-f]{64}$"


def jsonable(value: Any) -> Any:
    """Return facts as plain JSON values: NumPy scalars as numbers, times as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(each) for each in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _file_name(name: str) -> str:
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("must be a relative path without empty, . or .. parts")
    return name


def _zoned(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("needs a time zone")
    return value.astimezone(UTC)


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/=-]{1,200}$"), AfterValidator(_file_name)]
Text = Annotated[str, Field(min_length=1)]
Facts = Annotated[dict[str, Any], BeforeValidator(jsonable)]


#: Tag of versions that came of experimental runs.
EXPERIMENTAL = {"run": "experimental"}


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class File(_Frozen):
    """One artefact file; its content lies in the object store under its hash."""

    name: FileName
    sha256: str = Field(pattern=_SHA256)
    bytes: int = Field(ge=0)


class Signature(_Frozen):
    """What ``predict`` takes and gives.

    :param inputs: dtype of each feature column.
    :param output: dtype and meaning of the result, such as ``{"dtype": "float64", "kind": "probability"}``.
    """

    inputs: dict[str, Text] = Field(min_length=1)
    output: dict[str, Any] = Field(min_length=1)


class ModelManifest(_Frozen):
    """Everything about one model version but its number. Each field without a default must be given.

    :param dataset: lakeFS commit the model was trained on.
    :param window: window of that dataset, ``start/end``.
    :param sources: fingerprint of each source partition of the dataset, ``{table: {day: fingerprint}}``.
    :param service: Feast FeatureService, and :param registry: hash of its definitions.
    :param features: feature columns in the order the model takes them.
    :param metrics: ``{split: {slice: {metric: value}}}``, the slice ``all`` being the whole split; null = not defined.
    :param code_version: commit of the code that trained the model.
    :param kfp_run: run of Kubeflow Pipelines that made it.
    :param run_key: key of the work that registered it; one key, one version.
    :param parent: champion it was compared with, if there was one.
    """

    format: Literal[1] = 1
    model: str = Field(pattern=NAME)
    description: str = ""
    dataset: Text
    window: str
    sources: dict[str, dict[str, str]]
    service: Text
    registry: Text
    features: tuple[Text, ...] = Field(min_length=1)
    signature: Signature
    parameters: Facts
    metrics: Annotated[dict[str, dict[str, dict[str, float | None]]], BeforeValidator(jsonable), Field(min_length=1)]
    code_version: Text
    kfp_run: Text
    owner: Text
    created: Annotated[datetime, AfterValidator(_zoned)]
    run_key: Text
    files: tuple[File, ...] = Field(min_length=1)
    parent: int | None = None
    tags: dict[str, str] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ModelManifest:
        try:
            Window.from_text(self.window)
        except ConfigError as error:
            raise ValueError(f"window: {error}") from None
        if len(set(self.features)) < len(self.features):
            raise ValueError("features: a column is named twice")
        if set(self.features) != set(self.signature.inputs):
            odd = sorted(set(self.features) ^ set(self.signature.inputs))
            raise ValueError(f"signature.inputs and features must name the same columns, not so: {', '.join(odd)}")
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("files: a name is given twice")
        return self

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> ModelManifest:
        """Check facts and return them as a manifest.

        :raises DataError: something is missing or wrong; every mistake is named with its place.
        """
        try:
            return cls(**facts)
        except ValidationError as error:
            wrong = "; ".join(_mistake(e["loc"], e["msg"]) for e in error.errors())
            raise DataError(
                f"The manifest of model {facts.get('model', '?')} is refused: {wrong}.", "See docs/models.md."
            ) from None

    @classmethod
    def read(cls, document: bytes, digest: str) -> ModelManifest:
        """Return a stored manifest after its hash was checked.

        :raises DataError: the document is not the one that was registered.
        """
        if hashlib.sha256(document).hexdigest() != digest:
            raise DataError(f"Manifest {digest[:12]} was changed after it was registered.", "Restore the bucket.")
        return cls.of(json.loads(document))

    @property
    def experimental(self) -> bool:
        """Return whether the version came of an experimental run: such a one is never validated."""
        return EXPERIMENTAL.items() <= self.tags.items()

    @property
    def document(self) -> bytes:
        """Return the manifest as canonical JSON: the bytes that are stored and hashed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the document."""
        return hashlib.sha256(self.document).hexdigest()

    def metric(self, name: str, *, split: str = "test", slice_: str = "all") -> float | None:
        """Return one metric, None where it is missing or not defined."""
        return self.metrics.get(split, {}).get(slice_, {}).get(name)


def _mistake(place: Sequence[int | str], message: str) -> str:
    return f"{'.'.join(map(str, place))}: {message}" if place else message
