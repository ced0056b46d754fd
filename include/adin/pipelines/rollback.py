"""The pipeline ``rollback``: an earlier version back under load, whole in itself so that any KFP client can start it.

What the steps do stands in :mod:`adin.control.rollback`.
"""
# No `from __future__ import annotations`: kfp reads the annotations themselves.

from kfp import dsl

from adin.pipelines.training import _limited, step


@step
def stop_training(model: str, target: str, reason: str, by: str, run_key: str, kfp_run: str) -> int:
    """See that the target loads, stop continuous training, and return the target's version."""
    from adin.control import rollback

    key = run_key or kfp_run
    return rollback.stop_training(model, target, reason=reason, by=by, run_key=key, kfp_run=kfp_run)


@step
def load_version(model: str, version: int, reason: str, by: str, run_key: str, kfp_run: str) -> str:
    """Pin the version, put it under load, see that it answers, and let training go on without deploying."""
    from adin.control import rollback

    return rollback.load_version(model, version, reason=reason, by=by, run_key=run_key or kfp_run)


@dsl.pipeline(name="rollback", description="Put an earlier version under load and pin it; training goes on alone.")
def rollback(model: str, target: str, reason: str = "by hand", by: str = "kfp", run_key: str = ""):
    """Roll a model back to a version, a time (ISO 8601), or ``previous``."""
    told = {"model": model, "reason": reason, "by": by, "run_key": run_key, "kfp_run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    stopped = _limited(stop_training(target=target, **told)).set_retry(num_retries=3, backoff_duration="1s")
    _limited(load_version(version=stopped.output, **told)).set_retry(num_retries=3, backoff_duration="1s")
