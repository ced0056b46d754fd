"""Back to an earlier version: plan, what the pipeline ``rollback`` does, and the way forward again.

All state is in the model's log, so it may be killed anywhere and repeated: what was begun is found there.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from adin.control import ct, history, recurring, swap
from adin.errors import AdinError, ConfigError, RefusedError
from adin.models import ModelVersion, Registry, State, registry
from adin.models.log import Mode
from adin.pipelines import compiled
from adin.pipelines.client import KfpClient
from adin.problem import problem
from adin.run_key import content_hash
from adin.serving.client import ServingClient

PIPELINE = "rollback"


@dataclass(frozen=True)
class Plan:
    """What a rollback would change.

    :param target: as asked: a version, a time, or ``previous``.
    :param champion: version that is champion now; :param version: the one it would be.
    :param reigned: when the target was champion, newest last, as ``from .. to`` texts.
    :param dataset: commits before and after; :param features_added: columns only the target needs.
    :param in_flight: training runs that go, None if Kubeflow Pipelines does not answer; they will not deploy.
    :param obstacles: why it cannot be done; empty if it can.
    """

    model: str
    target: str
    champion: int | None
    version: int
    reigned: list[str]
    dataset: tuple[str | None, str]
    features_added: list[str]
    features_removed: list[str]
    mode: Mode
    frozen: bool
    in_flight: list[str] | None
    obstacles: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def check(self) -> Plan:
        """Return the plan if it can be done; :raises RefusedError: it cannot."""
        if self.obstacles:
            raise RefusedError(
                f"{self.model} cannot go back to version {self.version}: {' '.join(self.obstacles)}",
                "Choose another version.",
            )
        return self


def plan(name: str, target: str) -> Plan:
    """Return what a rollback would change; changes nothing.

    The model server tries whether the target loads, answers, and has its features online.

    :param target: a version's number, a time (ISO 8601, UTC unless it says otherwise), or ``previous``.
    :raises NotFoundError: there is no such model or version.
    :raises RefusedError: the target names no version.
    """
    models = registry()
    state, entries = ct.known(models, name), models.log(name)
    version = resolve(models, name, target)
    after = models.version(name, version)
    before = models.version(name, state.champion) if state.champion is not None else None
    reigns = history.reigns(entries)
    ends = [*(f"{reign.since:%Y-%m-%d %H:%M}" for reign in reigns[1:]), "now"][: len(reigns)]
    try:
        runs: list[str] | None = [run.name for run in ct.in_flight(name)]
    except AdinError:
        runs = None
    return Plan(
        model=name,
        target=target,
        champion=state.champion,
        version=version,
        reigned=[
            f"{reign.since:%Y-%m-%d %H:%M} to {end}"
            for reign, end in zip(reigns, ends, strict=True)
            if reign.version == version
        ],
        dataset=(before.manifest.dataset if before else None, after.manifest.dataset),
        features_added=_minus(after, before),
        features_removed=_minus(before, after),
        mode=state.mode,
        frozen=state.frozen,
        in_flight=runs,
        obstacles=_obstacles(name, version, state),
    )


def resolve(models: Registry, name: str, target: str) -> int:
    """Return the version a target names.

    ``previous`` is seen from before a rollback that did not end, so that a second try does not go two back.

    :raises RefusedError: there was no champion then, or none before.
    :raises ConfigError: the target cannot be read.
    """
    text = target.strip()
    entries = models.log(name)
    if re.fullmatch(r"\d+", text):
        return models.version(name, int(text)).number
    if text == "previous":
        return history.previous_champion(history.before_begun(entries))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{target!r} names no target.", "Write a version such as 14, a time such as 2013-11-04T02:00Z, or previous."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise RefusedError(f"{target} is in the future.", "Nobody knows the champion of then.")
    return history.champion_at(history.before_begun(entries), moment)


def submit(name: str, target: str, *, reason: str, by: str) -> str:
    """Start the pipeline ``rollback`` and return its run's id; the same request again finds the same run.

    :raises NotFoundError: there is no such model.
    """
    models = registry()
    state = ct.known(models, name)
    facts = {"model": name, "target": target, "reason": reason, "by": by}
    key = f"rollback-{name[:30]}-{content_hash({**facts, 'seq': state.seq})[:16]}"
    return KfpClient().submit(compiled(PIPELINE), {**facts, "run_key": key}, name=key, experiment="production")


def run(name: str, target: str, *, reason: str, by: str, run_key: str, kfp_run: str) -> int:
    """Do what the pipeline does, and return the version that answers.

    See that the target loads; stop training; pin the version; put it under load and ask it; let training go on without
    deploying. Each is an entry of the log, by which a repeated run goes on where a killed one stopped.

    If the version fails under load, the log says ``undone``, the former champion returns, and training is as before. If
    the model server is away, the log stands: the server follows it when it comes back, or at the next try.

    :param kfp_run: the run, by which others know whether it still goes.
    :raises RefusedError: the target cannot come under load, or failed there.
    :raises ServiceError: a server does not answer.
    """
    version = _stop_training(name, target, reason=reason, by=by, run_key=run_key, kfp_run=kfp_run)
    return _load_version(name, version, reason=reason, by=by, run_key=run_key)


def _stop_training(name: str, target: str, *, reason: str, by: str, run_key: str, kfp_run: str) -> int:
    models = registry()
    entries = models.log(name)
    begun = history.begun(entries)
    mine = next((e for e in entries if e.event == "rollback" and e.run_key == run_key), None)
    if mine and mine.version and not (begun and begun.run_key == run_key):
        return mine.version  # this very rollback has ended; how, the next step says
    state = ct.known(models, name)
    version = begun.version if begun and begun.run_key == run_key else resolve(models, name, target)
    if obstacles := _obstacles(name, version, state):
        raise RefusedError(f"{name} cannot go back to version {version}: {' '.join(obstacles)}")
    if not (begun and begun.run_key == run_key):
        told = {
            "target": target.strip(),
            "version": version,
            "kfp_run": kfp_run,
            "mode": begun.mode if begun else state.mode,
        }
        models.append(
            name,
            "ct_mode",
            mode="stopped",
            actor=by,
            reason=f"rollback to version {version}: {reason}",
            evidence={"rollback": told},
            run_key=run_key,
        )
    recurring.follow(name)
    return version


def _load_version(name: str, version: int, *, reason: str, by: str, run_key: str) -> int:
    models, serving, spec = registry(), ServingClient(), problem(name)
    if not _open(models, name, run_key):
        return _ended(models, name, run_key)
    models.append(name, "rollback", version=version, mode="stopped", actor=by, reason=reason, run_key=run_key)
    try:
        answers = swap.follow(spec, models, serving, actor=by, reason=f"rollback: {reason}", run_key=run_key)
    except AdinError as error:
        if error.retryable:
            raise
        undo(models, serving, name, version, by=by, run_key=run_key, error=error)
        raise
    end(models, name, "train_only", by=by, reason=f"rollback to version {version} is done", run_key=run_key)
    return answers


def undo(
    models: Registry, serving: ServingClient, name: str, version: int, *, by: str, run_key: str, error: Exception
) -> None:
    """Take a rollback back whose version does not answer, and let training be as before."""
    begun = _open(models, name, run_key)
    if models.state(name).champion == version:
        reason = f"the swap failed: {str(error)[:300]}"
        models.append(name, "undone", version=version, actor=by, reason=reason, run_key=run_key)
    if models.state(name).champion is not None:
        swap.follow(problem(name), models, serving, actor=by, reason="the former version", run_key=run_key)
    if begun:
        end(models, name, begun.mode, by=by, reason="the rollback failed", run_key=run_key)


def end(models: Registry, name: str, mode: Mode, *, by: str, reason: str, run_key: str) -> None:
    """Write that a rollback has ended, by the mode training is in from now on; another's rollback is left alone."""
    if _open(models, name, run_key):
        models.append(name, "ct_mode", mode=mode, actor=by, reason=reason, run_key=f"{run_key}:end")
        recurring.follow(name)


def freeze(name: str, *, actor: str, reason: str) -> None:
    """Pin the champion: nothing is promoted until the pin is lifted; also before the first version is there.

    :raises NotFoundError: there is no such model or problem.
    """
    models = registry()
    if not ct.known(models, name).frozen:
        models.append(name, "freeze", actor=actor, reason=reason, begin=True)


def unfreeze(name: str, *, keep_version: bool = False, actor: str, reason: str, run_key: str = "") -> State:
    """Lift the pin; after a rollback also bring back the champion and the mode from before it.

    :param keep_version: only lift the pin.
    :raises NotFoundError: there is no such model.
    :raises RefusedError: a rollback is under way, or the former champion may not come under load; nothing changes.
    """
    models = registry()
    ct._no_rollback(models, name)
    state = ct.known(models, name)
    if not state.frozen:
        if state.champion != state.served and (pinned := history.unpinned(models.log(name))):
            # an earlier try wrote the log and was killed before the swap
            _return(models, ServingClient(), name, pinned, actor=actor, reason=reason, run_key=run_key)
        return models.state(name)
    before = None if keep_version else history.before_pin(models.log(name))
    if before is None or before.champion is None:
        models.append(name, "unfreeze", actor=actor, reason=reason, run_key=run_key, expect_seq=state.seq)
        return models.state(name)
    serving = ServingClient()
    serving.check(name, before.champion)
    models.append(
        name,
        "unfreeze",
        version=before.champion,
        mode=before.mode,
        actor=actor,
        reason=reason,
        run_key=run_key,
        expect_seq=state.seq,
    )
    pinned = history.Standing(state.champion, state.mode)
    _return(models, serving, name, pinned, actor=actor, reason=reason, run_key=run_key)
    return models.state(name)


def _return(
    models: Registry,
    serving: ServingClient,
    name: str,
    pinned: history.Standing,
    *,
    actor: str,
    reason: str,
    run_key: str,
) -> None:
    """Put under load what an unfreeze has made champion; if it fails there, the log says so and the pin stays."""
    champion = models.state(name).champion
    recurring.follow(name)
    try:
        swap.follow(problem(name), models, serving, actor=actor, reason=reason, run_key=run_key)
    except AdinError as error:
        if not error.retryable and models.state(name).champion == champion != pinned.champion:
            reason = f"the swap failed: {str(error)[:300]}"
            models.append(name, "undone", version=champion, actor=actor, reason=reason, run_key=run_key)
            models.append(name, "ct_mode", mode=pinned.mode, actor=actor, reason="the pin stays", run_key=run_key)
            recurring.follow(name)
            swap.follow(problem(name), models, serving, actor=actor, reason="the former version", run_key=run_key)
        raise


def _open(models: Registry, name: str, run_key: str) -> history.Begun | None:
    begun = history.begun(models.log(name))
    return begun if begun and begun.run_key == run_key else None


def _ended(models: Registry, name: str, run_key: str) -> int:
    """Return the version a rollback led to that a repeated run finds ended; :raises RefusedError: it was given up."""
    mine = [e for e in models.log(name) if e.run_key == run_key and e.event in ("rollback", "undone")]
    if not mine or mine[-1].event == "undone" or mine[-1].version is None:
        why = mine[-1].reason if mine else "it was taken over by another"
        raise RefusedError(f"This rollback of {name} was given up: {why}.", "Start another.")
    return mine[-1].version


def _obstacles(name: str, version: int, state: State) -> list[str]:
    found = []
    if state.versions[version] in ("registered", "rejected"):
        found.append(f"It is {state.versions[version]}: it was never found good enough.")
    try:
        return found + swap.unfit(problem(name), ServingClient().check(name, version))
    except AdinError as error:
        if error.retryable:
            raise
        return [*found, str(error)]


def _minus(one: ModelVersion | None, other: ModelVersion | None) -> list[str]:
    have = set(other.manifest.features) if other else set()
    return [] if one is None else [feature for feature in one.manifest.features if feature not in have]
