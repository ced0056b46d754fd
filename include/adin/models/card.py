"""The card of a model version: everything on record about it on one page, as JSON or as HTML without any asset."""

from __future__ import annotations

from typing import Any

from adin.models.compare import compare
from adin.models.registry import Registry


def card(models: Registry, model: str, number: int) -> dict[str, Any]:
    """Return the facts of a version: its manifest, where it stands, what happened to it, and how it differs.

    Nothing in it is written for the card: all is from manifest and log.

    :returns: ``model``, ``version``, ``state``, ``aliases``, ``manifest``, ``history`` (log entries about it) and
        ``against_parent`` (see :func:`adin.models.compare.compare`; None without a parent).
    :raises NotFoundError: there is no such version.
    """
    version, state = models.version(model, number), models.state(model)
    parent = version.manifest.parent
    known = parent is not None and parent in state.versions
    return {
        "model": model,
        "version": number,
        "state": state.versions[number],
        "aliases": sorted(alias for alias, behind in state.aliases.items() if behind == number),
        "frozen": state.frozen and state.champion == number,
        "files_kept": number not in state.expired,
        "manifest_sha256": version.digest,
        "manifest": version.manifest.model_dump(mode="json"),
        "history": [entry.model_dump(mode="json") for entry in models.log(model) if entry.version == number],
        "against_parent": compare(models, [(model, int(parent or 0)), (model, number)]) if known else None,
    }


def html(facts: dict[str, Any]) -> str:
    """Return a card as a page of its own.

    :param facts: what :func:`card` returned.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("adin.models"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = _number
    return environment.get_template("card.html").render(facts)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "–" if value is None else str(value)
