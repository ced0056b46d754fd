"""What of the datasets nothing refers to: versions no model came of, files of no version, tables of dead builds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from adin.connections import connection, declared
from adin.datasets import clickhouse
from adin.datasets.lake import Lake
from adin.datasets.versions import MANIFEST, is_version, table_of
from adin.features.offline import offline
from adin.models import Registry
from adin.models.objects import Bucket
from adin.pipelines.client import KfpClient
from adin.retention.phases import Item
from adin.settings import settings

log = logging.getLogger(__name__)

#: What a build has written and not yet committed is younger; no build takes this long.
_YOUNG = timedelta(days=1)


class Versions:
    """Dataset versions no kept model was trained on, except the newest of each problem.

    They stay in lakeFS's log with their manifests. Deleting one takes its copy out of ClickHouse and sets the tag
    ``expired-<commit>``, after which its files belong to nothing.
    """

    name = "dataset versions"

    def __init__(self, models: Registry, lake: Lake) -> None:
        self._models = models
        self._lake = lake

    def garbage(self) -> list[Item]:
        """Return versions older than ``settings().retention_dataset_days`` that nothing names."""
        oldest = _clock() - timedelta(days=settings().retention_dataset_days)
        gone, named = self._lake.expired(), self._named()
        found = []
        for problem in self._lake.branches():
            commits = [commit for commit in self._lake.log(problem) if is_version(commit, problem)]
            for commit in commits[1:]:
                made = datetime.fromtimestamp(commit.creation_date, UTC)
                if made < oldest and commit.id not in gone | named:
                    found.append(Item(f"{problem}/{commit.id}", f"no kept model came of it; made {made:%Y-%m-%d}"))
        return found

    def delete(self, names: Sequence[str]) -> list[str]:
        """Take versions out of ClickHouse and mark them as expired."""
        still = {item.name for item in self.garbage()}
        for name in still & set(names):
            problem, _, commit = name.partition("/")
            if declared("clickhouse"):
                clickhouse.drop(problem, commit)
            self._lake.expire(commit)
        return [name for name in names if name in still]

    def _named(self) -> set[str]:
        """Return the commits that kept model versions, and training runs under way, name."""
        named = set()
        for model in self._models.models():
            expired = self._models.state(model).expired
            named |= {v.manifest.dataset for v in self._models.versions(model) if v.number not in expired}
        if declared("kfp"):
            named |= {str(run.parameters.get("dataset")) for run in KfpClient().unended()}
        return named


class Files:
    """Objects below the lakeFS repository that no commit which is kept, and no branch, has."""

    name = "dataset files"

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._of_commit: dict[tuple[str, str], set[str]] = {}
        place = urlsplit(lake.storage())
        self._bucket = Bucket(connection("s3"), place.netloc)
        self._prefix = place.path.strip("/")

    def garbage(self) -> list[Item]:
        """Return such objects older than a day."""
        return self._of(self._bucket.objects(f"{self._prefix}/"))

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete objects to which no commit refers."""
        found: dict[str, tuple[datetime, int]] = {}
        for name in names:
            found |= {key: facts for key, facts in self._bucket.objects(name).items() if key == name}
        still = {item.name for item in self._of(found)}
        for name in still:
            self._bucket.remove(name)
        return [name for name in names if name in still or name not in found]

    def _of(self, objects: Mapping[str, tuple[datetime, int]]) -> list[Item]:
        oldest = _clock() - _YOUNG
        # lakeFS keeps its own ranges below _lakefs
        old = {
            key: facts
            for key, facts in objects.items()
            if facts[0] < oldest and not key.startswith(f"{self._prefix}/_lakefs/") and not key.endswith("/dummy")
        }
        wanted = self._wanted() if old else set()
        return [
            Item(key, f"no dataset version has it; written {written:%Y-%m-%d}", size)
            for key, (written, size) in old.items()
            if key not in wanted
        ]

    def _wanted(self) -> set[str]:
        """Return the keys of the objects that branches and kept commits have, and of the manifests of all."""
        expired, wanted = self._lake.expired(), set[str]()
        for branch in self._lake.branches(all_of_them=True):
            wanted |= self._addresses(branch)  # what is staged and not committed
            for commit in self._lake.log(branch, all_parents=True):
                kept = MANIFEST if commit.id in expired else ""
                if (commit.id, kept) not in self._of_commit:
                    self._of_commit[commit.id, kept] = self._addresses(commit.id, kept)
                wanted |= self._of_commit[commit.id, kept]
        return wanted

    def _addresses(self, ref: str, prefix: str = "") -> set[str]:
        return {urlsplit(entry.physical_address).path.strip("/") for entry in self._lake.objects(ref, prefix)}


class Temporary:
    """What builds and loads that died left: joined tables, staging tables in ClickHouse, branches of lakeFS."""

    name = "temporary tables"

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def garbage(self) -> list[Item]:
        """Return such tables older than a day, and the branches whose table is gone or that old."""
        oldest = _clock() - _YOUNG
        joined = offline().temporary() if declared("spark") else {}
        found = [
            Item(f"offline:{settings().temp_database}.{table}", f"made {made:%Y-%m-%d} by a build that died")
            for table, made in joined.items()
            if made < oldest
        ]
        if declared("clickhouse"):
            found += [
                Item(f"clickhouse:{table}", f"made {made:%Y-%m-%d} by a load that died")
                for table, made in clickhouse.staged().items()
                if made < oldest
            ]
        building = {table for table, made in joined.items() if made >= oldest}
        found += [
            Item(f"lakefs:{branch}", "its build died")
            for branch in self._lake.branches(all_of_them=True)
            if table_of(branch) not in {None, *building}
        ]
        return found

    def delete(self, names: Sequence[str]) -> list[str]:
        """Drop them."""
        drop: dict[str, Any] = {
            "offline": offline().drop,
            "clickhouse": clickhouse.drop_staged,
            "lakefs": self._lake.delete_branch,
        }
        still = {item.name for item in self.garbage()}
        for name in still & set(names):
            kind, _, thing = name.partition(":")
            drop[kind](thing)
        return [name for name in names if name in still]


def _clock() -> datetime:
    return datetime.now(UTC)
