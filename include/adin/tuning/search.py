"""The search with Optuna. Each trial is a process of its own, so that one which hangs or dies ends alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adin.errors import RunFailedError
from adin.problem import Problem
from adin.tuning.katib import tuning_of
from adin.tuning.spec import Parameter, Tuning

_FORMAT = 1


class _FailedTrial(Exception):
    """A trial that gave no value; it is counted."""


def search(
    spec: Problem,
    data: Path,
    *,
    program: tuple[str, ...] = (sys.executable, "-m", "adin.tuning.trial"),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the best parameters and how they were found.

    :param data: folder of a dataset version that was verified.
    :param program: what is started for a trial.
    :raises RunFailedError: more trials failed than are borne, or none ended well before the deadline.
    """
    import optuna

    tune = tuning_of(spec)
    # trials at the same time share the step's processors: threads that wait for each other are slow beyond measure
    threads = max(1, int(spec.train.cpu // tune.parallelTrialCount))
    deadline = time.monotonic() + tune.deadline.total_seconds()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=tune.objective.type, sampler=_sampler(tune))

    def objective(trial: Any) -> float:
        chosen = {each.name: _suggest(trial, each) for each in tune.parameters}
        left = min(deadline - time.monotonic(), tune.trial_deadline.total_seconds())
        command = [*program, spec.name, "--data", str(data), *(f"{name}={value}" for name, value in chosen.items())]
        try:
            value = _trial(command, tune.objective.metric, left, threads)
        except _FailedTrial as failure:
            trial.set_user_attr("error", str(failure))
            progress(f"trial {trial.number} failed with {chosen}: {failure}")
            raise
        progress(f"trial {trial.number}: {tune.objective.metric}={value:.6g} with {chosen}")
        return value

    def judge(study: Any, trial: Any) -> None:
        if len(_failed(study)) > tune.maxFailedTrialCount or (
            trial.value is not None and tune.objective.reached(trial.value)
        ):
            study.stop()

    study.optimize(
        objective,
        n_trials=tune.maxTrialCount,
        n_jobs=tune.parallelTrialCount,
        timeout=tune.deadline.total_seconds(),
        callbacks=[judge],
        catch=(_FailedTrial,),
    )
    return _told(spec, tune, study)


def _told(spec: Problem, tune: Tuning, study: Any) -> dict[str, Any]:
    failed = _failed(study)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(failed) > tune.maxFailedTrialCount or not complete:
        first = failed[0].user_attrs.get("error", "") if failed else f"the deadline of {tune.deadline} passed"
        raise RunFailedError(
            f"Tuning of {spec.name}: {len(failed)} of {len(study.trials)} trials failed. The first: {first}",
            "Mend train.py or the ranges, or give it more time.",
        )
    best = study.best_trial
    return {
        "format": _FORMAT,
        "problem": spec.name,
        "parameters": {**spec.train.params, **best.params},
        "best": best.params,
        "objective": tune.objective.model_dump(mode="json"),
        "value": best.value,
        "trial": best.number,
        "reached_goal": tune.objective.reached(best.value),
        "failed": len(failed),
        "spec": tune.model_dump(mode="json"),
        "trials": [
            {"number": each.number, "state": each.state.name, "parameters": each.params, "value": each.value}
            | ({"error": each.user_attrs["error"]} if "error" in each.user_attrs else {})
            for each in study.trials
        ],
    }


def _failed(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "FAIL"]


def _trial(command: list[str], metric: str, seconds: float, threads: int) -> float:
    """Run a trial's process and return what it printed."""
    if seconds <= 0:
        raise _FailedTrial("the deadline passed")
    try:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise _FailedTrial(f"not done after its {seconds:.0f} s") from None
    if done.returncode:
        raise _FailedTrial(f"exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    printed = [line.removeprefix(f"{metric}=") for line in done.stdout.splitlines() if line.startswith(f"{metric}=")]
    try:
        value = float(printed[-1])
    except (IndexError, ValueError):
        raise _FailedTrial(f"it printed no {metric}=number") from None
    if not math.isfinite(value):
        raise _FailedTrial(f"its {metric} is {value}")
    return value


def _suggest(trial: Any, each: Parameter) -> Any:
    if each.list:
        return trial.suggest_categorical(each.name, list(each.list))
    log = each.distribution == "logUniform"
    if each.type == "int":
        assert each.min is not None
        assert each.max is not None
        return trial.suggest_int(each.name, int(each.min), int(each.max), step=int(each.step or 1), log=log)
    return trial.suggest_float(each.name, each.min, each.max, step=each.step, log=log)


def _sampler(tune: Tuning) -> Any:
    import optuna

    if tune.algorithm == "grid":
        grid: Mapping[str, Any] = {each.name: each.values for each in tune.parameters}
        return optuna.samplers.GridSampler(grid, seed=tune.seed)
    if tune.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=tune.seed)
    parallel = tune.parallelTrialCount > 1
    return optuna.samplers.TPESampler(
        seed=tune.seed, multivariate=tune.algorithm == "multivariate-tpe", constant_liar=parallel
    )
