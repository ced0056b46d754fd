"""The pipeline ``rollback``: an earlier version back under load, whole in itself so that any KFP client can start it.

What the steps do stands in :mod:`adin.control.rollback`.
"""
# No `from __future__ import annotations`: kfp reads the annotations themselves.

from kfp import dsl

from adin.pipelines.training import _limited, step


@step
def roll_back(model: str, target: str, reason: str, by: str, run_key: str, kfp_run: str) -> int:
    """Stop training, pin the version, put it under load, see that it answers, and log it: one step, for speed."""
    from adin.control import rollback

    return rollback.run(model, target, reason=reason, by=by, run_key=run_key or kfp_run, kfp_run=kfp_run)


@dsl.pipeline(name="rollback", description="Put an earlier version under load and pin it; training goes on alone.")
def rollback(model: str, target: str, reason: str = "by hand", by: str = "kfp", run_key: str = ""):
    """Roll a model back to a version, a time (ISO 8601), or ``previous``."""
    run = roll_back(
        model=model, target=target, reason=reason, by=by, run_key=run_key, kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER
    )
    _limited(run).set_retry(num_retries=3, backoff_duration="1s")
