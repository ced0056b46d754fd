"""Model versions seen from all sides: search, comparison, card."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adin.commands import output
from adin.models import Query, registry
from adin.models import card as cards
from adin.models.compare import compare as compare_versions
from adin.models.log import VersionState
from adin.models.search import bounds, pair


def search(
    model: Annotated[str, typer.Argument(help="Name, with * for any letters.")] = "*",
    metric: Annotated[list[str] | None, typer.Option(help="'auc>=0.71' or 'log_loss<=0.5'; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    split: str = "test",
    slice_: Annotated[str, typer.Option("--slice")] = "all",
    dataset: Annotated[str, typer.Option(help="Commit, may be shortened.")] = "",
    feature: Annotated[str, typer.Option(help="Column the model takes.")] = "",
    state: Annotated[VersionState | None, typer.Option()] = None,
    owner: str = "",
    since: Annotated[datetime | None, typer.Option(help="Made at or after, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Made before, UTC.")] = None,
    order: Annotated[str, typer.Option(help="model, created or a metric; -NAME from the greatest down.")] = "model",
    limit: Annotated[int, typer.Option(help="Versions on a page.")] = 50,
    after: Annotated[str, typer.Option(help="What the page before gave as its next.")] = "",
    json: output.Json = False,
) -> None:
    """Find versions of all models."""
    query = Query(
        model,
        tags=dict(pair(each, "=") for each in tag or ()),
        metrics=bounds(metric or ()),
        split=split,
        slice_=slice_,
        dataset=dataset,
        feature=feature,
        state=state,
        owner=owner,
        since=since and since.replace(tzinfo=UTC),
        until=until and until.replace(tzinfo=UTC),
        order=order,
        limit=limit,
        after=after,
    )
    models = registry()
    page = models.search(query)
    states = {name: models.state(name).versions for name in {version.model for version in page.versions}}
    found: list[dict[str, Any]] = [
        {
            "model": version.model,
            "version": version.number,
            "state": states[version.model][version.number],
            "created": version.manifest.created.isoformat(timespec="seconds"),
            "dataset": version.manifest.dataset,
            "owner": version.manifest.owner,
            "metrics": version.manifest.metrics.get(split, {}).get(slice_, {}),
        }
        for version in page.versions
    ]
    if json:
        return output.emit({"versions": found, "next": page.next})
    names = list(dict.fromkeys([*query.metrics, *(name for each in found for name in each["metrics"])]))
    columns = ["model", "version", "state", "created", "owner"]
    rows = [[*(each[c] for c in columns), *(number(each["metrics"].get(name)) for name in names)] for each in found]
    output.table([*columns, *names], rows)
    if page.next:
        output.step(f"more: --after {page.next}")


def compare(
    versions: Annotated[list[str], typer.Argument(metavar="MODEL:VERSION...", help="Two or more; an alias will do.")],
    everything: Annotated[bool, typer.Option("--all", help="Also what is the same.")] = False,
    json: output.Json = False,
) -> None:
    """Set versions beside each other: data, parameters, features, metrics by slice."""
    models = registry()
    found = compare_versions(models, [models.resolve(each) for each in versions])
    if json:
        return output.emit(found)
    heads = [f"{each['model']} {each['version']} ({each['state']})" for each in found["versions"]]
    for part in ("facts", "parameters", "features"):
        rows = [[row["name"], *row["values"]] for row in found[part] if everything or not row["same"]]
        if rows:
            output.table([part, *heads], rows)
    sources = [
        [row["name"], *(f"{n} (+{a} -{d} ~{m})" for n, a, d, m in _partitions(row))]
        for row in found["sources"]
        if everything or not row["same"]
    ]
    if sources:
        output.table(["partitions", *heads], sources)
    metrics = [
        [row["split"], row["slice"], row["name"], *map(_changed, row["values"], row["change"])]
        for row in found["metrics"]
    ]
    return output.table(["split", "slice", "metric", *heads], metrics)


def card(
    version: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="An alias will do, such as champion.")],
    html: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    json: output.Json = False,
) -> None:
    """Show everything on record about a version, as JSON or as a page that needs nothing else."""
    models = registry()
    facts = cards.card(models, *models.resolve(version))
    if html:
        html.write_text(cards.html(facts))
        output.step(f"written to {html}")
    if json or not html:
        output.emit(facts)


def number(value: float | None) -> str:
    """Return a metric as it is shown."""
    return "-" if value is None else f"{value:.4f}"


def _changed(value: float | None, change: float | None) -> str:
    return f"{number(value)} ({change:+.4f})" if change else number(value)


def _partitions(row: dict[str, Any]) -> Any:
    return zip(row["partitions"], row["added"], row["dropped"], row["made_anew"], strict=True)
