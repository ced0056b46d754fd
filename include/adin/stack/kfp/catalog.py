"""Pipelines, their versions, and experiments."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adin.errors import ConfigError, ConflictError, NotFoundError
from adin.stack.kfp import spec as specs
from adin.stack.kfp.query import stamp
from adin.stack.kfp.store import Doc, Store


class Catalog:
    """What runs are made of and filed under."""

    def __init__(self, store: Store) -> None:
        self._store = store
        default_experiment(store)

    def create_pipeline(self, body: Mapping[str, Any]) -> Doc:
        """Create a pipeline without a version.

        :raises ConflictError: the name is taken.
        """
        doc = _named(body, "pipeline")
        with self._store.transaction():
            if self._store.find("pipeline", name=doc["name"]):
                raise ConflictError(
                    f"A pipeline named {doc['name']} exists already.", "Upload a version of it instead."
                )
            self._store.put("pipeline", doc["id"], doc)
        return doc

    def create_version(self, pipeline: str, spec: specs.Spec, body: Mapping[str, Any]) -> Doc:
        """Create a version of a pipeline.

        :raises NotFoundError: there is no such pipeline.
        :raises ConflictError: the pipeline has a version of this name.
        """
        digest, text = specs.digest(spec)
        doc = _named(body, "pipeline version") | {"pipeline_id": pipeline, "_spec": digest}
        if body.get("code_source_url"):
            doc["code_source_url"] = body["code_source_url"]
        with self._store.transaction():
            self._store.get("pipeline", pipeline)
            if self._store.find("version", pipeline_id=pipeline, name=doc["name"]):
                raise ConflictError(f"Pipeline {pipeline} has a version named {doc['name']} already.")
            self._store.put_spec(digest, text)
            self._store.put("version", doc["id"], doc)
        return doc

    def upload(self, content: bytes, body: Mapping[str, Any]) -> Doc:
        """Create a pipeline with its first version, which bears the same name."""
        spec = specs.read(content)
        named = {**body, "name": body.get("name") or body.get("display_name") or specs.name(spec)}
        with self._store.transaction():
            doc = self.create_pipeline(named)
            self.create_version(doc["id"], spec, named)
        return doc

    def version(self, pipeline: str, key: str) -> Doc:
        """Return a version of a pipeline.

        :raises NotFoundError: it has no such version.
        """
        doc = self._store.get("version", key)
        if doc["pipeline_id"] != pipeline:
            raise NotFoundError(f"Pipeline {pipeline} has no version {key}.")
        return doc

    def pipeline_named(self, name: str) -> Doc:
        """Return a pipeline by its name.

        :raises NotFoundError: there is none.
        """
        found = self._store.find("pipeline", name=name)
        if not found:
            raise NotFoundError(f"No pipeline is named {name}.")
        return found[0]

    def delete_pipeline(self, key: str, *, cascade: bool) -> None:
        """Remove a pipeline.

        :param cascade: remove its versions too; without it a pipeline that has versions stays.
        :raises ConflictError: it has versions.
        """
        with self._store.transaction():
            self._store.get("pipeline", key)
            versions = self._store.find("version", pipeline_id=key)
            if versions and not cascade:
                raise ConflictError(f"Pipeline {key} has {len(versions)} versions.", "Delete them first, or cascade.")
            for version in versions:
                self._store.delete("version", version["id"])
            self._store.delete("pipeline", key)

    def delete_version(self, pipeline: str, key: str) -> None:
        """Remove a version of a pipeline; runs made from it keep their text."""
        self.version(pipeline, key)
        self._store.delete("version", key)

    def create_experiment(self, body: Mapping[str, Any]) -> Doc:
        """Create an experiment.

        :raises ConflictError: the name is taken.
        """
        doc = _named(body, "experiment") | {"storage_state": "AVAILABLE"}
        with self._store.transaction():
            if self._store.find("experiment", display_name=doc["display_name"]):
                raise ConflictError(f"An experiment named {doc['display_name']} exists already.")
            self._store.put("experiment", doc["id"], doc)
        return doc

    def archive_experiment(self, key: str, state: str) -> None:
        """Archive an experiment with its runs and stop its schedules, or bring the experiment back.

        :param state: ``ARCHIVED`` or ``AVAILABLE``. Runs and schedules stay as they are when it comes back.
        """
        with self._store.transaction():
            self._store.put("experiment", key, self._store.get("experiment", key) | {"storage_state": state})
            if state == "AVAILABLE":
                return
            for run in self._store.find("run", experiment_id=key):
                self._store.put("run", run["id"], run | {"storage_state": state})
            for doc in self._store.find("recurring run", experiment_id=key):
                self._store.put("recurring run", doc["id"], doc | {"mode": "DISABLE", "status": "DISABLED"})

    def archive_run(self, key: str, state: str) -> None:
        """Archive a run or bring it back.

        :param state: ``ARCHIVED`` or ``AVAILABLE``.
        """
        with self._store.transaction():
            self._store.put("run", key, self._store.get("run", key) | {"storage_state": state})


def default_experiment(store: Store) -> Doc:
    """Return the experiment of runs that name none; it is made where there is none, or no more."""
    with store.transaction():
        if found := store.find("experiment", display_name="Default"):
            return found[0]
        doc = _named({"display_name": "Default", "description": "Runs that name no experiment."}, "experiment")
        doc["storage_state"] = "AVAILABLE"
        store.put("experiment", doc["id"], doc)
    return doc


def _named(body: Mapping[str, Any], kind: str) -> Doc:
    name = str(body.get("name") or body.get("display_name") or "").strip()
    if not name:
        raise ConfigError(f"The {kind} has no name.")
    doc: Doc = {
        "id": str(uuid.uuid4()),
        "name": name,
        "display_name": str(body.get("display_name") or name),
        "created_at": stamp(datetime.now(UTC)),
    }
    return doc | {key: body[key] for key in ("description", "tags") if body.get(key)}
