"""Files of feature tables that no partition has: what was replaced by a later ingest, and what was never published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from adin.features import hdfs, hive, repo
from adin.features.offline import offline
from adin.retention.phases import Item

#: What an ingest has staged and not yet published is younger; no run takes this long.
_YOUNG = timedelta(days=1)


class Partitions:
    """Folders of days, below the tables of all domains, that the offline store does not name."""

    name = "feature partitions"

    def garbage(self) -> list[Item]:
        """Return such folders older than a day."""
        oldest = _clock() - _YOUNG
        return [
            Item(path, f"not published; written {written:%Y-%m-%d}", hdfs.size(path))
            for domain in repo.domains()
            for view in repo.domain(domain).views
            for path, written in self._unpublished(view.table).items()
            if written < oldest
        ]

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete folders, and those above that become empty."""
        still = {item.name for item in self.garbage()}
        for name in still & set(names):
            hdfs.delete(name)
            above = name.rpartition("/")[0]
            if not hdfs.ages(above) and not hdfs.list_files(above):
                hdfs.delete(above)
        return [name for name in names if name in still]

    @staticmethod
    def _unpublished(table: str) -> dict[str, datetime]:
        published = {urlsplit(part.location).path for part in offline().partitions(table).values()}
        found: dict[str, datetime] = {}
        for run in hdfs.ages(f"{hive.table_folder(table)}/data"):
            found |= hdfs.ages(run)
        return {path: written for path, written in found.items() if path not in published}


def _clock() -> datetime:
    return datetime.now(UTC)
