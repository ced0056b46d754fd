"""What the published days of a table were made from, so that no job is run that would give the same days again."""

from __future__ import annotations

import json
from datetime import datetime, time
from pathlib import Path
from typing import Any

from adin.errors import NotFoundError
from adin.features import hdfs, hive, pushed, repo
from adin.features.offline import offline
from adin.run_key import content_hash
from adin.settings import ROOT
from adin.window import Window


def of(domain: repo.Domain, view: str, window: Window) -> dict[str, str]:
    """Return a hash of what each day of a window is made from.

    That is the path, length and time of change of each raw file of the day and of the days its view looks back on, the
    domain's own files, and the job's code.
    """
    code = content_hash({path.name: path.read_text() for path in _code(domain)})
    raw: dict[str, dict[str, str]] = {}
    for table in (*domain.reads[view], *([pushed.table(view)] if view in domain.pushed else [])):
        for path, version in hdfs.versions(domain.table_folder(table)).items():
            raw.setdefault(path.rpartition("/")[0].rpartition("day=")[2], {})[path] = version
    landed = {day: content_hash(files) for day, files in raw.items()}
    made_from = {}
    for day in window.days:
        first = (datetime.combine(day, time()) - domain.lookback[view]).date()
        near = {each: files for each, files in landed.items() if str(first) <= each <= str(day)}
        made_from[str(day)] = content_hash({"code": code, **near})
    return made_from


def unchanged(domain: repo.Domain, view: str, window: Window) -> dict[str, Any] | None:
    """Return the published days as the result of a job that made nothing, or None if one of them must be made.

    :param window: whole days.
    """
    table = domain.view(view).table
    noted, published = _noted(table), offline().partitions(table)
    for day, made_from in of(domain, view, window).items():
        now = published[day].fingerprint if day in published else ""
        if noted.get(day) != [made_from, now]:
            return None
    days = {str(day): published[str(day)] for day in window.days if str(day) in published}
    return {
        "application_id": "",
        "domain": domain.name,
        "view": view,
        "table": table,
        "window": str(window),
        "partitions": {day: {"rows": part.rows, "fingerprint": part.fingerprint} for day, part in days.items()},
        "violations": [],
        "unchanged": True,
    }


def note(table: str, made_from: dict[str, str]) -> None:
    """Write down what published days were made from.

    Of two who do so at once one may be forgotten; its days are then made again.
    """
    published = offline().partitions(table)
    now = {day: [each, published[day].fingerprint if day in published else ""] for day, each in made_from.items()}
    hdfs.write(_path(table), json.dumps(_noted(table) | now).encode())


def _code(domain: repo.Domain) -> list[Path]:
    own = [path for path in domain.path.iterdir() if path.suffix in {".py", ".sql", ".yaml"}]
    return sorted([*own, *(ROOT / "include" / "spark").glob("*.py")])


def _noted(table: str) -> dict[str, list[str]]:
    try:
        return dict(json.loads(hdfs.read(_path(table))))
    except NotFoundError:
        return {}


def _path(table: str) -> str:
    return f"{hive.table_folder(table)}/_inputs.json"
