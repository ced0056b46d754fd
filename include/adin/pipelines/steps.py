"""What the pipelines' steps do: from a dataset version to a model under load. Each can be run twice."""

from __future__ import annotations

import json
import logging
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adin import datasets
from adin.errors import AdinError, ConflictError, DataError, RefusedError, ServiceError
from adin.models import EXPERIMENTAL, Registry, artifact, registry
from adin.pipelines.client import KfpClient
from adin.problem import Problem, Split, problem
from adin.settings import settings
from adin.window import Window

if TYPE_CHECKING:
    import pandas as pd

    from adin.serving.client import ServingClient

log = logging.getLogger(__name__)

_EVALUATION = "evaluation.json"
_PREDICTIONS = "predictions.parquet"
_REPORT = "report.html"
_PARAMETERS, _TUNING = "parameters.json", "tuning.json"
ACTOR = "pipeline"


def load(name: str, commit: str, data: Path) -> None:
    """Copy a dataset version into the step's folder, verified, and check that every split has rows.

    :param commit: its id, or ``newest``.
    """
    if commit == "newest":
        commit = datasets.newest(name).commit
    found = datasets.download(name, commit, data)
    if empty := [split for split, rows in found.rows.items() if not rows]:
        raise DataError(
            f"Dataset {commit[:12]} of {name} has no rows in {', '.join(empty)}.", "Choose a longer window."
        )


def tune(name: str, data: Path, tuning: Path) -> None:
    """Search for the problem's hyperparameters on train and validation split, and write down what was found."""
    from adin.tuning.search import search

    found = search(problem(name), data, progress=lambda line: print(line, flush=True))  # noqa: T201 - the step's log
    tuning.mkdir(parents=True, exist_ok=True)
    (tuning / _TUNING).write_text(json.dumps(found))


def train(name: str, data: Path, model: Path, tuning: Path | None = None) -> None:
    """Fit the problem's model on the train split and write it.

    :param tuning: what :func:`tune` wrote; its parameters stand in for those of problem.yaml.
    """
    spec = problem(name)
    params = dict(spec.train.params)
    if tuning:
        params = dict(json.loads((tuning / _TUNING).read_text())["parameters"])
    artifact.save(fitted(spec, data, params), spec.code, model)
    (model / _PARAMETERS).write_text(json.dumps(params))
    if tuning:
        shutil.copy(tuning / _TUNING, model / _TUNING)


def fitted(spec: Problem, data: Path, params: dict[str, Any]) -> Any:
    """Return the problem's model, fitted on the train split.

    A problem with objects finds their folder in ``params["objects"]``.
    """
    rows, columns = split(data, "train")
    if spec.objects:
        params = params | {"objects": str(data / "objects")}
    return artifact.code(spec.code).fit(rows[columns], rows[spec.label.column], params)


def split(data: Path, name: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of one split, and which columns are features."""
    return _split(data, name), list(_manifest(data)["features"])


def evaluate(name: str, data: Path, model: Path, evaluation: Path) -> None:
    """Compare the new model with the champion on the same test rows, which neither has seen, and keep the evidence."""
    import numpy as np
    import pandas as pd

    from adin.drift import engine as drift
    from adin.promotion import gate, metrics, report

    spec = problem(name)
    models = registry()
    champion = models.champion(name)
    window = Window.from_text(_manifest(data)["window"])
    rows = _split(data, "test")
    label, frame = rows[spec.label.column].to_numpy(float), _features(rows, data)
    new = np.asarray(artifact.load(model).predict(frame), float)
    days = pd.to_datetime(rows[spec.event_time], utc=True).dt.strftime("%Y-%m-%d").to_numpy()
    old, age, unseen = None, None, np.ones(len(rows), bool)
    if champion:
        # rows the champion has learned from say nothing about which of the two is better
        folder = models.download(name, champion.number, evaluation / "champion")
        ended = Window.from_text(champion.manifest.window).end
        learned = _learned_until(folder / "evidence", spec, ended)
        unseen = (pd.to_datetime(rows[spec.event_time], utc=True) >= learned).to_numpy()
        age = window.end - ended
        compared = rows.loc[unseen, list(champion.manifest.features)]
        old = np.asarray(artifact.load(folder).predict(compared), float) if unseen.any() else np.empty(0)
    sliced = dict.fromkeys(
        [*spec.promotion.slices, *(each for rail in spec.promotion.guardrails for each in rail.slices)]
    )
    decision = gate.decide(
        spec.promotion,
        label=label[unseen],
        challenger=new[unseen],
        champion=old,
        days=days[unseen],
        baseline=_baseline(spec, rows, float(_split(data, "train")[spec.label.column].mean()))[unseen],
        slices={column: rows[column].to_numpy()[unseen] for column in sliced},
        champion_age=age,
        uses=_uses(models, name, window),
    )
    told: dict[str, Any] = {"test": {"all": metrics.evaluate(spec.task, label, new)}}
    for column in spec.promotion.slices:
        told["test"] |= metrics.by_slice(spec.task, label, new, column, rows[column].to_numpy())
    validate = _split(data, "validate")
    guess = artifact.load(model).predict(_features(validate, data))
    told["validate"] = {"all": metrics.evaluate(spec.task, validate[spec.label.column].to_numpy(float), guess)}
    evaluation.mkdir(parents=True, exist_ok=True)
    kept = {"day": days[unseen], "label": label[unseen], "challenger": new[unseen]}
    kept |= {} if old is None else {"champion": old}
    pd.DataFrame(kept).to_parquet(evaluation / _PREDICTIONS)
    replayed = np.unique(np.linspace(0, len(frame) - 1, spec.promotion.infrastructure.replay_rows).astype(int))
    frame.assign(**{artifact.REPLAYED: new}).iloc[replayed if len(frame) else []].to_parquet(
        evaluation / artifact.REPLAY
    )
    document = {
        "outcome": decision.outcome,
        "reason": decision.reason,
        "against": champion.number if champion else None,
        "metrics": told,
        "signature": {
            "inputs": {column: str(kind) for column, kind in frame.dtypes.items()},
            "output": {
                "dtype": str(new.dtype),
                "kind": "probability" if spec.task == "binary" else "value",
            },
        },
        "evidence": decision.evidence,
        "learned_until": Split(**_manifest(data).get("split", spec.split.model_dump()))
        .bounds(window.end)[0]
        .isoformat(),
        "drift": drift.newest(models.bucket, name),
    }
    (evaluation / _EVALUATION).write_text(json.dumps(document, default=float))
    (evaluation / _REPORT).write_text(report.page(name, document, kept))


def _learned_until(evidence: Path, spec: Problem, ended: datetime) -> datetime:
    """Return up to when a version has learned: what its own split said, whatever ``problem.yaml`` says by now."""
    if (evidence / _EVALUATION).is_file() and (told := _evaluation(evidence).get("learned_until")):
        return datetime.fromisoformat(told)
    return spec.split.bounds(ended)[0]


def _baseline(spec: Problem, rows: pd.DataFrame, mean: float) -> Any:
    """Return what would be predicted without a model: the policy's column, and the training mean where it is null."""
    import numpy as np

    if spec.promotion.baseline is None:
        return np.full(len(rows), mean)
    return rows[spec.promotion.baseline].astype(float).fillna(mean).to_numpy()


def _uses(models: Registry, name: str, window: Window) -> int:
    """Return how many versions were judged by the test span of a window before: each answer tells a little of it."""
    return sum(Window.from_text(found.manifest.window).end == window.end for found in models.versions(name))


def experimental(name: str, data: Path, kfp_run: str) -> bool:
    """Tell whether a run may never deploy: it is of another KFP experiment, or learns from data on a branch."""
    where = KfpClient().experiment_of(kfp_run)
    return where != settings().production_experiment or not datasets.in_production(name, _manifest(data)["commit"])


def register(
    name: str, data: Path, model: Path, evaluation: Path, run_key: str, kfp_run: str, *, experiment: bool = False
) -> int:
    """Keep the model as a version, tell how it compared, and return its number.

    :param experiment: the version can never be validated, and so never promoted; it gets the alias ``experimental``.
    """
    spec = problem(name)
    told = _evaluation(evaluation)
    found = _manifest(data)
    models = registry()
    tuned = (model / _TUNING).is_file()
    manifest = {
        "description": spec.description,
        "dataset": found["commit"],
        "window": found["window"],
        "sources": found["sources"],
        "service": found["service"],
        "registry": found["registry"],
        "features": found["features"],
        "signature": told["signature"],
        "parameters": _parameters(spec, model),
        "metrics": told["metrics"],
        "code_version": found["code_version"],
        "kfp_run": kfp_run,
        "owner": spec.owner,
        "parent": told["against"],
        "tags": (EXPERIMENTAL if experiment else {}) | ({"tuned_by": kfp_run} if tuned else {}) | _started_by(kfp_run),
    }
    files = {
        artifact.MODEL: model / artifact.MODEL,
        artifact.CODE: model / artifact.CODE,
        f"evidence/{_EVALUATION}": evaluation / _EVALUATION,
        f"evidence/{_PREDICTIONS}": evaluation / _PREDICTIONS,
        f"evidence/{_REPORT}": evaluation / _REPORT,
        artifact.REPLAY: evaluation / artifact.REPLAY,
    }
    if tuned:
        files[f"evidence/{_TUNING}"] = model / _TUNING
    version = models.register(name, manifest, files, actor=ACTOR, run_key=run_key)
    if version.manifest.experimental:
        models.append(
            name, "alias", version=version.number, alias="experimental", actor=ACTOR, reason="an experiment",
            run_key=run_key,
        )  # fmt: skip
        return version.number
    verdicts: dict[str, Literal["validate", "reject", "hold"]] = {"promoted": "validate", "rejected": "reject"}
    event = verdicts.get(told["outcome"], "hold")
    if models.state(name).versions[version.number] == "registered":
        evidence = {"outcome": told["outcome"], "against": told["against"], "file": f"evidence/{_EVALUATION}"}
        models.append(
            name, event, version=version.number, actor=ACTOR, reason=told["reason"], evidence=evidence, run_key=run_key
        )
    return version.number


def _started_by(kfp_run: str) -> dict[str, str]:
    try:
        found = KfpClient().get(kfp_run).started_by
    except AdinError as error:
        # worth no training that has succeeded
        log.warning("not known who started run %s: %s", kfp_run, error)
        return {}
    return {"started_by": found} if found else {}


def gate(evaluation: Path) -> bool:
    """Tell whether the new model may be promoted: the one bool on which the pipeline branches."""
    return bool(_evaluation(evaluation)["outcome"] == "promoted")


def promote(name: str, version: int, evaluation: Path, run_key: str, *, kfp_run: str = "") -> str:
    """Put a version under load: does it load, log entry, swap, guard, log ``served``. Returns how it ended.

    Mode and freeze are read again by the log entry itself, just before serving is touched. If the swap fails the log
    says ``undone``, the former version returns, and the model is frozen: the next training must not try the same. If
    the model server is away the log stands: the server follows it when it comes back, and a second try ends the work.

    :param kfp_run: the run this is a step of; one that is not of the production experiment deploys nothing.
    :returns: ``promoted``, ``held: why``, or ``superseded: why`` if the champion is no longer the one compared with.
    """
    from adin.control import swap
    from adin.serving.client import ServingClient

    spec = problem(name)
    models, serving = registry(), ServingClient()
    if kfp_run and (where := KfpClient().experiment_of(kfp_run)) != settings().production_experiment:
        return f"held: runs of the KFP experiment {where!r} deploy nothing"
    told = _evaluation(evaluation)
    _not_undone(name, run_key)
    try:
        found = serving.check(name, version)
    except ServiceError:
        raise
    except AdinError as error:
        return _kept_back(models, name, version, f"held: {error}", run_key)
    if broken := swap.unfit(spec, found):
        return _kept_back(models, name, version, f"held: {'; '.join(broken)}", run_key)
    missing = swap.missing_share(spec, serving)
    try:
        models.promote(
            name,
            version,
            against=told["against"],
            actor=ACTOR,
            reason=told["reason"],
            evidence={
                "file": f"evidence/{_EVALUATION}",
                "policy_hash": told["evidence"]["policy_hash"],
                "infrastructure": found,
            },
            run_key=run_key,
            automatic=True,
        )
    except RefusedError as refusal:
        return _kept_back(models, name, version, f"held: {refusal}", run_key)
    except ConflictError as conflict:
        return _kept_back(models, name, version, f"superseded: {conflict}", run_key)
    try:
        loaded = swap.follow(
            spec,
            models,
            serving,
            actor=ACTOR,
            run_key=run_key,
            guard=lambda number: swap.guard(spec, serving, number, missing) if number == version else {},
        )
    except ServiceError:  # says nothing about the version
        raise
    except Exception as error:
        _undo(spec, models, serving, version, told["against"], run_key, error)
        raise
    return "promoted" if loaded == version else f"superseded: version {loaded} came in between"


def _kept_back(models: Registry, name: str, version: int, why: str, run_key: str) -> str:
    """Say in the log why a version that passed the gate does not come under load: it is the challenger from now on."""
    if models.state(name).versions[version] == "validated":
        models.append(name, "challenge", version=version, actor=ACTOR, reason=why, run_key=run_key)
    return why


def _undo(
    spec: Problem,
    models: Registry,
    serving: ServingClient,
    version: int,
    former: int | None,
    run_key: str,
    error: Exception,
) -> None:
    """Bring the former version back and freeze the model; a change by somebody else meanwhile stands."""
    from adin.control import swap

    if models.state(spec.name).champion == version:
        reason = f"the swap failed: {str(error)[:300]}"
        evidence = {"freeze": former is not None}
        models.append(
            spec.name, "undone", version=version, actor=ACTOR, reason=reason, evidence=evidence, run_key=run_key
        )
        if former is not None:
            reason = f"version {version} failed under load and must not be promoted again"
            models.append(spec.name, "freeze", actor=ACTOR, reason=reason, run_key=run_key)
    if models.state(spec.name).champion is not None:
        swap.follow(spec, models, serving, actor=ACTOR, reason="the former version is back", run_key=run_key)


def _not_undone(name: str, run_key: str) -> None:
    """Refuse a second try of a promotion whose swap failed and froze the model: the run has failed."""
    mine = [entry for entry in registry().log(name) if entry.run_key == run_key and entry.event == "undone"]
    if mine and mine[-1].evidence.get("freeze"):
        raise RefusedError(f"{name}: {mine[-1].reason}", f"Mend the cause, then `adin model unfreeze {name}`.")


def _parameters(spec: Problem, model: Path) -> dict[str, Any]:
    """Return what a model was fitted with; a model of elsewhere says nothing of it and had problem.yaml's."""
    written = model / _PARAMETERS
    return dict(json.loads(written.read_text())) if written.is_file() else dict(spec.train.params)


def _split(data: Path, split: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(data / "data" / f"split={split}")


def _features(rows: pd.DataFrame, data: Path) -> pd.DataFrame:
    return rows[list(_manifest(data)["features"])]


def _manifest(data: Path) -> dict[str, Any]:
    return dict(json.loads((data / datasets.MANIFEST).read_text()))


def _evaluation(evaluation: Path) -> dict[str, Any]:
    return dict(json.loads((evaluation / _EVALUATION).read_text()))
