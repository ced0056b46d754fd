"""What the DAG files need to know of a feature domain, read from file names and YAML: no Feast while Airflow parses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import yaml
from airflow.sdk.exceptions import AirflowSkipException

from adin.errors import ConfigError, NotFoundError
from adin.settings import settings
from adin.window import Window, run_window


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

    def window(self, context: Mapping[str, Any]) -> Window:
        """Return the window of a run that makes features.

        A source may have ended (the demo's has). The schedule's runs after that are skipped; one started by hand
        without a window is for the source's last day.

        :raises ConfigError: the run has no window, or one in which the source has no data.
        """
        asked = run_window(context)
        if self.end is None or asked.start < self.end:
            return asked
        told = f"Raw data of {self.name} ended at {self.end:%Y-%m-%d}."
        if context["params"]["window_start"]:
            raise ConfigError(told, "Ask for an earlier window.")
        if context["dag_run"].run_type == "manual":
            return Window(self.end - timedelta(days=1), self.end)
        raise AirflowSkipException(told)

    def history(self, context: Mapping[str, Any]) -> Window:
        """Return the window of a run that learns: from the first day to the end of the run's own window.

        A run by hand without a window learns from all a source had, once that has ended.

        :raises ConfigError: the run has no window, or an empty one.
        """
        params = context["params"]
        if params["window_end"]:
            return Window.parse(params["window_start"] or self.start, params["window_end"])
        if self.end and not context.get("triggering_asset_events"):
            return Window(self.start, self.end)
        end = run_window(context).end
        return Window(self.start, min(end, self.end) if self.end else end)


def names() -> list[str]:
    """Return the folders of the feature repository that declare raw tables, sorted."""
    return sorted(path.parent.name for path in settings().feature_repo.glob("*/raw.yaml"))


def domain(name: str) -> Domain:
    """Read one domain.

    :raises NotFoundError: there is no such folder.
    :raises ConfigError: its ``raw.yaml`` breaks the form.
    """
    path = settings().feature_repo / name / "raw.yaml"
    if not path.is_file():
        raise NotFoundError(
            f"No feature domain {name!r}: {path} is missing.", f"Known: {', '.join(names()) or 'none'}."
        )
    tables = tuple(sorted(file.stem for file in path.parent.glob("*.sql")))
    try:
        spec = yaml.safe_load(path.read_text())
        labels, arrives = set(spec.get("labels", ())), spec["arrives"]
        start, end = _midnight(arrives["start"]), arrives.get("end")
        views = tuple(table for table in tables if table not in labels)
        return Domain(name, tables, views, start, _midnight(end) if end else None)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: {type(error).__name__}: {error}.", "It needs `arrives: {start: YYYY-MM-DD}`."
        ) from None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
