"""What the DAG files need to know of a feature domain, read from file names and YAML: no Feast while Airflow parses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time

import yaml

from adin.settings import settings


@dataclass(frozen=True)
class Domain:
    """One feature domain.

    :param tables: every table, by its query file.
    :param views: tables that are feature views, so not those of labels.
    :param start: first day raw data is of.
    :param end: day after the last; None for a source that goes on.
    """

    name: str
    tables: tuple[str, ...]
    views: tuple[str, ...]
    start: datetime
    end: datetime | None


def domains() -> list[Domain]:
    """Return every folder of the feature repository that declares raw tables."""
    found = []
    for path in sorted(settings().feature_repo.glob("*/raw.yaml")):
        spec = yaml.safe_load(path.read_text())
        tables = tuple(sorted(file.stem for file in path.parent.glob("*.sql")))
        labels = set(spec.get("labels", ()))
        arrives = spec["arrives"]
        end = arrives.get("end")
        found.append(
            Domain(
                name=path.parent.name,
                tables=tables,
                views=tuple(table for table in tables if table not in labels),
                start=datetime.combine(arrives["start"], time(), UTC),
                end=datetime.combine(end, time(), UTC) if end else None,
            )
        )
    return found
