"""AMVersion: immutable model versions and the log that says which of them is champion."""

from adin.models.log import Entry, State
from adin.models.manifest import EXPERIMENTAL, File, ModelManifest, Signature
from adin.models.registry import ModelVersion, Page, Registry, registry
from adin.models.search import Query

__all__ = [
    "EXPERIMENTAL",
    "Entry",
    "File",
    "ModelManifest",
    "ModelVersion",
    "Page",
    "Query",
    "Registry",
    "Signature",
    "State",
    "registry",
]
