"""Model versions: list, show, history, pin the champion, lift the pin, roll back."""

from __future__ import annotations

import json as jsonlib
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from adin import retention
from adin.commands import model_access, model_events, model_look, output
from adin.commands.model_look import number as _number
from adin.commands.rollback import rollback
from adin.errors import AdinError, DataError, NotFoundError
from adin.models import ModelManifest, ModelVersion, Registry, State, doctor, registry
from adin.models import bundle as bundles

app = typer.Typer(no_args_is_help=True)
app.add_typer(model_access.app, name="access")
app.add_typer(model_events.app, name="events")
app.command("search", epilog="Example: adin model search --metric 'auc>=0.71' --order -auc")(model_look.search)
app.command("compare", epilog="Example: adin model compare flights_delay:champion flights_delay:3")(model_look.compare)
app.command("card", epilog="Example: adin model card flights_delay:champion --html card.html")(model_look.card)
Model = Annotated[str, typer.Argument(help="Model; a problem's model has the problem's name.")]
Reason = Annotated[str, typer.Option(help="Why; stands in the log.")]


@app.command("list", epilog="Example: adin model list flights_delay")
def list_(
    model: Annotated[str, typer.Argument(help="List this model's versions; default all models.")] = "",
    json: output.Json = False,
) -> None:
    """List the models, or the versions of one."""
    models = registry()
    if not model:
        each = [_overview(models, name) for name in models.models()]
        if json:
            return output.emit(each)
        columns = ["model", "champion", "versions", "mode", "frozen", "problem"]
        return output.table(columns, [[one.get(column) for column in columns] for one in each])
    state = _state(models, model)
    found = models.versions(model)
    if json:
        return output.emit([_version_facts(version, state) for version in found])
    names = list(dict.fromkeys(name for version in found for name in _test_metrics(version.manifest)))
    versions = [
        (
            version.number,
            state.versions[version.number],
            f"{version.manifest.created:%Y-%m-%d %H:%M}",
            version.manifest.dataset[:12],
            *(_number(_test_metrics(version.manifest).get(name)) for name in names),
        )
        for version in reversed(found)
    ]
    output.table(["version", "state", "created (UTC)", "dataset", *names], versions)


@app.command("show", epilog="Example: adin model show flights_delay 3")
def show(
    model: Model,
    version: Annotated[int | None, typer.Argument(help="Version; default the champion, else the newest.")] = None,
    json: output.Json = False,
) -> None:
    """Show what a version is, and the way back: dataset commit, window, source partitions."""
    models = registry()
    state = _state(models, model)
    found = models.version(model, version or state.champion or max(state.versions))
    if json:
        return output.emit(_version_facts(found, state))
    manifest = found.manifest
    output.facts(
        {
            "model": model,
            "version": f"{found.number} ({state.versions[found.number]})",
            "created": f"{manifest.created:%Y-%m-%d %H:%M:%S} UTC by {manifest.kfp_run}, owner {manifest.owner}",
            "compared with": f"version {manifest.parent}" if manifest.parent else "no champion yet",
            "parameters": ", ".join(f"{name}={value}" for name, value in manifest.parameters.items()),
            "features": f"{len(manifest.features)} of service {manifest.service}: {', '.join(manifest.features)}",
            "feature registry": manifest.registry[:12],
            "code": manifest.code_version[:12],
            "files": ", ".join(f"{file.name} ({file.bytes:,} bytes)" for file in manifest.files),
            "manifest": found.digest[:12],
            "dataset": manifest.dataset,
            "window": manifest.window,
        }
    )
    sources = [(table, min(days), max(days), len(days)) for table, days in manifest.sources.items() if days]
    output.table(["source", "first partition", "last", "partitions"], sources)
    metrics = [
        (split, slice_, name, _number(value))
        for split, slices in manifest.metrics.items()
        for slice_, values in slices.items()
        for name, value in values.items()
    ]
    output.table(["split", "slice", "metric", "value"], metrics)


@app.command("history", epilog="Example: adin model history flights_delay --all")
def history(
    model: Model,
    everything: Annotated[
        bool, typer.Option("--all", help="Also registrations, aliases and what was seen to answer.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Show who was champion when, who changed it and why, and why candidates were held back."""
    models = registry()
    _state(models, model)
    entries = models.log(model) if everything else models.history(model)
    if json:
        return output.emit([entry.model_dump(mode="json") for entry in entries])
    rows = [
        (
            entry.seq,
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
            entry.event,
            entry.version,
            entry.aliases.get("champion"),
            entry.actor,
            entry.reason,
        )
        for entry in entries
    ]
    output.table(["entry", "time (UTC)", "event", "version", "champion", "by", "reason"], rows)


@app.command("evidence", epilog="Example: adin model evidence flights_delay 3 --save evidence/")
def evidence(
    model: Model,
    version: Annotated[int | None, typer.Argument(help="Version; default the newest.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder to write report.html and predictions.parquet to.")] = None,
    json: output.Json = False,
) -> None:
    """Show why a version was promoted, held or rejected; the page with plots and the predictions can be saved."""
    models = registry()
    number = version or max(_state(models, model).versions)
    with TemporaryDirectory() as folder:
        kept = models.download(model, number, Path(folder)) / "evidence"
        if not (kept / "evaluation.json").is_file():
            raise NotFoundError(f"Version {number} of {model} was registered without evidence.")
        told = jsonlib.loads((kept / "evaluation.json").read_text())
        if save:
            shutil.copytree(kept, save, dirs_exist_ok=True)
    if json:
        return output.emit(told)
    facts = told["evidence"]
    output.facts(
        {
            "version": number,
            "outcome": told["reason"],
            "compared with": f"version {told['against']}" if told["against"] else "no champion yet",
            "rows": f"{facts['rows']:,} of {facts['days']} days",
            "gain": _number(facts["gain"]),
            "interval": " .. ".join(map(_number, facts["interval"] or [])),
            "policy": facts["policy_hash"][:12],
            "saved to": save,
        }
    )
    checks = [("holds" if check["ok"] else "broken", check["name"], check["detail"]) for check in facts["checks"]]
    output.table(["", "check", "found"], checks)


@app.command("freeze", epilog="Example: adin model freeze flights_delay --reason 'holiday week'")
def freeze(model: Model, reason: Reason = "pinned by hand", json: output.Json = False) -> None:
    """Pin the champion: nothing is promoted until the pin is lifted."""
    from adin import control

    control.freeze(model, actor=output.actor(), reason=reason)
    _stands(registry(), model, json)


@app.command("unfreeze", epilog="Example: adin model unfreeze flights_delay --reason 'holiday is over'")
def unfreeze(
    model: Model,
    reason: Reason = "pin lifted by hand",
    keep_version: Annotated[bool, typer.Option("--keep-version", help="Only lift the pin.")] = False,
    json: output.Json = False,
) -> None:
    """Lift the pin; after a rollback the champion and the mode before it come back."""
    from adin import control

    models = registry()
    _state(models, model)
    control.unfreeze(model, keep_version=keep_version, actor=output.actor(), reason=reason)
    _stands(models, model, json)


app.command("rollback")(rollback)


@app.command("alias", epilog="Example: adin model alias flights_delay candidate 4")
def alias(
    model: Model,
    name: Annotated[str, typer.Argument(help="Name of your own for a version.")],
    version: Annotated[int | None, typer.Argument(help="Version; none takes the name away.")] = None,
    reason: Reason = "named by hand",
    json: output.Json = False,
) -> None:
    """Give a version a name, or take the name away."""
    models = registry()
    if _state(models, model).own.get(name) != version:
        models.append(model, "alias", version=version, alias=name, actor=output.actor(), reason=reason)
    _stands(models, model, json)


@app.command("export", epilog="Example: adin model export models.tar flights_delay")
def export(
    bundle: Annotated[Path, typer.Argument(help="File to write.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default all models.")] = None,
    json: output.Json = False,
) -> None:
    """Write models with their logs and files to one file, every hash checked."""
    _moved(bundles.export_bundle(registry(), bundle, names or ()), json)


@app.command("import", epilog="Example: adin model import models.tar")
def import_(
    bundle: Annotated[Path, typer.Argument(help="File that `adin model export` wrote.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default all models in it.")] = None,
    json: output.Json = False,
) -> None:
    """Bring models from a bundle into this registry; each is there as a whole or not at all."""
    _moved(bundles.import_bundle(registry(), bundle, names or ()), json)


def _moved(moved: list[bundles.Moved], json: bool) -> None:
    if json:
        return output.emit([asdict(each) for each in moved])
    rows = [(m.model, m.versions, m.entries, m.new, m.files, f"{m.bytes:,}") for m in moved]
    output.table(["model", "versions", "log entries", "of them new", "files", "bytes"], rows)


@app.command("gc", epilog="Example: adin model gc --apply")
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Mark and delete; without it only the plan is shown.")] = False,
    json: output.Json = False,
) -> None:
    """Show, or with --apply mark and after the grace time delete, what nothing refers to."""
    models = registry()
    found = (retention.collect if apply else retention.plan)(models.store, retention.collectors(models))
    if json:
        return output.emit([asdict(each) for each in found])
    columns = ["kind", "thing", "step", "due (UTC)", "bytes", "why"]
    rows = [(p.collector, p.name, p.step, f"{p.due:%Y-%m-%d %H:%M}", f"{p.bytes:,}", p.why) for p in found]
    return output.table(columns, rows, title="" if apply else "Plan; --apply does it.")


@app.command("doctor", epilog="Example: adin model doctor --no-files")
def doctor_(
    files: Annotated[bool, typer.Option(help="Also download every artefact and check its hash.")] = True,
    reconcile: Annotated[
        bool, typer.Option(help="Also let serving follow the log where a crash left them apart.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Race the store, and check every log, manifest and artefact against its hash."""
    models = registry()
    found = doctor.examine(models, files=files)
    if reconcile:
        found += [_reconciled(name) for name in models.models()]
    if json:
        output.emit([{"what": each.what, "good": each.good, "problems": each.problems} for each in found])
    else:
        output.table(["looked at", "found"], [(each.what, "; ".join(each.problems) or "good") for each in found])
    if bad := [each.what for each in found if not each.good]:
        raise DataError(f"The doctor found problems with {', '.join(bad)}.", "Do what each of them says.")


def _reconciled(name: str) -> doctor.Finding:
    """Make serving follow the log of one model; what cannot be done for it holds up no other."""
    from adin import control

    finding = doctor.Finding(f"serving of {name}")
    try:
        for step in control.reconcile(name, actor=output.actor()):
            output.step(f"{name}: {step}")
    except AdinError as error:
        finding.problems.append(str(error))
    return finding


def _state(models: Registry, model: str) -> State:
    state = models.state(model)
    if not state.seq:
        known = ", ".join(models.models()) or "none yet"
        raise NotFoundError(f"No model {model!r}.", f"Known models: {known}.")
    return state


def _stands(models: Registry, model: str, json: bool) -> None:
    facts = _facts_of(models.state(model))
    return output.emit(facts) if json else output.facts(facts)


def _overview(models: Registry, name: str) -> dict[str, Any]:
    try:
        return _facts_of(models.state(name))
    except DataError as error:  # the others are listed none the less
        return {"model": name, "problem": str(error)}


def _facts_of(state: State) -> dict[str, Any]:
    return {
        "model": state.model,
        "champion": state.champion,
        "previous": state.previous,
        "challenger": state.challenger,
        "aliases": state.own,
        "served": state.served,
        "mode": state.mode,
        "frozen": state.frozen,
        "versions": len(state.versions),
        "entries": state.seq,
    }


def _version_facts(found: ModelVersion, state: State) -> dict[str, Any]:
    return {
        "version": found.number,
        "state": state.versions[found.number],
        "manifest_sha256": found.digest,
        **found.manifest.model_dump(mode="json"),
    }


def _test_metrics(manifest: ModelManifest) -> dict[str, float | None]:
    return manifest.metrics.get("test", {}).get("all", {})
