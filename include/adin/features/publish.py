"""Make the staged output of an ingest job visible, once its quality gate is passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adin.errors import DataError
from adin.features import hdfs, inputs, jobs, repo
from adin.features.offline import Partition, offline


def gate(results: Iterable[Mapping[str, Any]]) -> None:
    """Let the line go on only if no rule is broken in any table.

    Results with broken rules are forgotten, so that the ingest tasks work anew when they are cleared.

    :param results: results of the ingest jobs of one window.
    :raises DataError: names each table, rule, number of rows, days and sample keys; nothing was published.
    """
    results = list(results)
    told = [
        f"{result['table']}: {broken['rows']} rows: {broken['rule']} (days {', '.join(broken['days'])}"
        + (f"; e.g. {', '.join(broken['sample'])})" if broken["sample"] else ")")
        for result in results
        for broken in result["violations"]
    ]
    if told:
        for result in results:
            jobs.forget(result["key"])
        listed = "\n  ".join(told)
        raise DataError(
            f"The quality gate stopped the line; nothing was published:\n  {listed}\n",
            "Correct the raw data or the rule in quality.py, then clear the ingest tasks.",
        )


def publish(result: Mapping[str, Any]) -> dict[str, Any]:
    """Publish one table's staged days and return the facts of the step.

    A day whose rows are what they were is left alone. Staged files that the store does not keep are deleted. The result
    is used up: the job works anew when its task is cleared, unless its inputs are what they were.

    :param result: what the ingest job of the table returned.
    """
    view = repo.domain(result["domain"]).view(result["view"])
    parts = result["partitions"]
    new, changed = ([], []) if result.get("unchanged") else _publish(view, result)
    jobs.forget(result["key"])
    return {
        "view": view.name,
        "table": view.table,
        "window": result["window"],
        "rows": sum(part["rows"] for part in parts.values()),
        "days": len(parts),
        "new": len(new),
        "changed": len(changed),
        "fingerprints": {day: part["fingerprint"] for day, part in parts.items()},
    }


def _publish(view: repo.View, result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Publish staged days; return those that were new, and those that changed."""
    days = {
        day: Partition(f"{result['location']}/day={day}", part["fingerprint"], part["rows"], result["key"])
        for day, part in result["partitions"].items()
    }
    store = offline()
    new, changed = store.publish(view, result["columns"], days)
    current = store.partitions(view.table)
    for day, staged in days.items():
        if current[day].location != staged.location:
            hdfs.delete(staged.location)
    inputs.note(view.table, result["inputs"])
    return new, changed
