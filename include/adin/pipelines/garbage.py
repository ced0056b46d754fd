"""Runs of Kubeflow Pipelines of which no kept model version came, with the artefacts their steps left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from adin.models import Registry
from adin.pipelines.client import KfpClient
from adin.retention.phases import Item
from adin.settings import settings


class Runs:
    """Training runs that ended long ago and that no kept model version and no entry of a log names."""

    name = "pipeline runs"

    def __init__(self, models: Registry) -> None:
        self._models = models

    def garbage(self) -> list[Item]:
        """Return runs of ours which ended ``settings().retention_run_days`` ago; others' runs are not looked at."""
        before = _clock() - timedelta(days=settings().retention_run_days)
        named = self._named()
        return [
            Item(run.run_id, f"{run.parameters['problem']}, {run.state}, ended {run.ended:%Y-%m-%d}")
            for run in KfpClient().ended(before)
            if {"problem", "run_key"} <= run.parameters.keys() and run.run_id not in named
        ]

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete runs, of local KFP with their files."""
        still, client = {item.name for item in self.garbage()}, KfpClient()
        for name in still & set(names):
            client.delete(name)
        return [name for name in names if name in still]

    def _named(self) -> set[str]:
        named = set()
        for model in self._models.models():
            expired = self._models.state(model).expired
            named |= {v.manifest.kfp_run for v in self._models.versions(model) if v.number not in expired}
            named |= {str(entry.evidence.get("kfp_run")) for entry in self._models.log(model)}
        return named


def _clock() -> datetime:
    return datetime.now(UTC)
