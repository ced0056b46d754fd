"""The training pipelines, as Kubeflow sees them. Compile with ``python -m adin.pipelines.compile``.

Steps pass folders and ids; what they do stands in :mod:`adin.pipelines.steps`. The branch is on one bool, computed in a
step: a condition of two comparisons compiles to the second alone (kubeflow/pipelines #5404), and a NaN in a comparison
silently takes neither branch.
"""
# No `from __future__ import annotations`: kfp reads the annotations themselves.

from kfp import dsl

IMAGE = "adin/ml:0.1.0"
step = dsl.component(base_image=IMAGE, install_kfp_package=False)


@step
def load(problem: str, dataset: str, data: dsl.Output[dsl.Dataset]):
    """Copy the dataset version and verify it."""
    from pathlib import Path

    from adin.pipelines import steps

    steps.load(problem, dataset, Path(data.path))


@step
def train(problem: str, data: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]):
    """Fit the model."""
    from pathlib import Path

    from adin.pipelines import steps

    steps.train(problem, Path(data.path), Path(model.path))


@step
def tune(problem: str, data: dsl.Input[dsl.Dataset], tuning: dsl.Output[dsl.Artifact]):
    """Search for the best hyperparameters."""
    from pathlib import Path

    from adin.pipelines import steps

    steps.tune(problem, Path(data.path), Path(tuning.path))


@step
def train_tuned(
    problem: str, data: dsl.Input[dsl.Dataset], tuning: dsl.Input[dsl.Artifact], model: dsl.Output[dsl.Model]
):
    """Fit the model with the parameters that were found."""
    from pathlib import Path

    from adin.pipelines import steps

    steps.train(problem, Path(data.path), Path(model.path), Path(tuning.path))


@step
def evaluate(
    problem: str, data: dsl.Input[dsl.Dataset], model: dsl.Input[dsl.Model], evaluation: dsl.Output[dsl.Artifact]
):
    """Compare it with the champion on the same rows."""
    from pathlib import Path

    from adin.pipelines import steps

    steps.evaluate(problem, Path(data.path), Path(model.path), Path(evaluation.path))


@step
def register(
    problem: str,
    run_key: str,
    kfp_run: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
) -> int:
    """Keep it as a version and return its number."""
    from pathlib import Path

    from adin.pipelines import steps

    found = Path(data.path)
    experiment = steps.experimental(problem, found, kfp_run)
    files = (Path(model.path), Path(evaluation.path))
    return steps.register(problem, found, *files, run_key or kfp_run, kfp_run, experiment=experiment)


@step
def gate(evaluation: dsl.Input[dsl.Artifact]) -> bool:
    """Tell whether it may be promoted."""
    from pathlib import Path

    from adin.pipelines import steps

    return steps.gate(Path(evaluation.path))


@step
def promote(problem: str, version: int, run_key: str, kfp_run: str, evaluation: dsl.Input[dsl.Artifact]) -> str:
    """Put it under load; a run of another experiment than production's deploys nothing."""
    from pathlib import Path

    from adin.pipelines import steps

    return steps.promote(problem, version, Path(evaluation.path), run_key or kfp_run, kfp_run=kfp_run)


def _limited(task: dsl.PipelineTask, *, cpu: str = "1", memory: str = "2G", retries: int = 0) -> dsl.PipelineTask:
    # requests let Kubernetes wait until so much is free, limits keep a step from taking more
    task.set_caching_options(False).set_cpu_request(cpu).set_memory_request(memory)
    task.set_cpu_limit(cpu).set_memory_limit(memory)
    if retries:  # for steps that wait on other servers
        task.set_retry(num_retries=retries, backoff_duration="5s", backoff_factor=2.0)
    return task


def _train(problem: str, dataset: str, run_key: str, cpu: str, memory: str):
    data = _limited(load(problem=problem, dataset=dataset), retries=3).outputs["data"]
    model = _limited(train(problem=problem, data=data), cpu=cpu, memory=memory).outputs["model"]
    return _kept(problem, run_key, memory, data, model)


def _kept(problem: str, run_key: str, memory: str, data, model):
    judged = evaluate(problem=problem, data=data, model=model)
    evaluation = _limited(judged, memory=memory, retries=3).outputs["evaluation"]
    kept = register(
        problem=problem,
        run_key=run_key,
        kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        data=data,
        model=model,
        evaluation=evaluation,
    )
    return evaluation, _limited(kept, retries=3)


@dsl.pipeline(name="train-only", description="Train, evaluate and register; nothing is deployed.")
def train_only(problem: str, dataset: str, run_key: str, train_cpu: str = "2", train_memory: str = "4G"):
    """Train on a dataset version and keep the model."""
    _train(problem, dataset, run_key, train_cpu, train_memory)


@dsl.pipeline(name="train-and-deploy", description="Train, evaluate, register; promote if the gate lets it.")
def train_and_deploy(problem: str, dataset: str, run_key: str, train_cpu: str = "2", train_memory: str = "4G"):
    """Train on a dataset version, keep the model, and put it under load if it is better."""
    evaluation, kept = _train(problem, dataset, run_key, train_cpu, train_memory)
    verdict = _limited(gate(evaluation=evaluation)).after(kept)
    with dsl.If(verdict.output == True, name="better"):  # noqa: E712 - kfp builds the condition from ==
        promoted = promote(
            problem=problem,
            version=kept.output,
            run_key=run_key,
            kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            evaluation=evaluation,
        )
        _limited(promoted, retries=3)


@dsl.pipeline(
    name="tune", description="Search for hyperparameters, train with the best, register; nothing is deployed."
)
def tune_and_train(problem: str, dataset: str, run_key: str = "", train_cpu: str = "2", train_memory: str = "4G"):
    """Tune on a dataset version and keep the model of the best parameters."""
    data = _limited(load(problem=problem, dataset=dataset), retries=3).outputs["data"]
    tuning = _limited(tune(problem=problem, data=data), cpu=train_cpu, memory=train_memory).outputs["tuning"]
    fitted = _limited(train_tuned(problem=problem, data=data, tuning=tuning), cpu=train_cpu, memory=train_memory)
    _kept(problem, run_key, train_memory, data, fitted.outputs["model"])


PIPELINES = {"train_only": train_only, "train_and_deploy": train_and_deploy, "tune": tune_and_train}
