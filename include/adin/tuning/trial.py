"""One trial: fit with given parameters, judge on the validation split, print ``metric=value``.

``python -m adin.tuning.trial PROBLEM (--data FOLDER | --dataset COMMIT) name=value ...`` is what Optuna starts here and
what a pod of Katib runs; Katib reads the metric from the output.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adin.errors import ConfigError
from adin.problem import problem
from adin.tuning.katib import tuning_of
from adin.tuning.spec import Tuning


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of a dataset version that was verified")
    source.add_argument("--dataset", help="commit of a dataset version")
    parser.add_argument("values", nargs="*", help="name=value")
    asked = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        data = asked.data
        if data is None:
            from adin.pipelines import steps

            data = Path(folder)
            steps.load(asked.problem, asked.dataset, data)
        tune = tuning_of(problem(asked.problem))
        print(f"{tune.objective.metric}={run(asked.problem, data, parsed(tune, asked.values)):.12g}")  # noqa: T201


def run(name: str, data: Path, parameters: Mapping[str, Any]) -> float:
    """Return the objective of a model fitted with the problem's parameters and these."""
    from adin.pipelines import steps
    from adin.promotion import metrics

    spec = problem(name)
    fitted = steps.fitted(spec, data, {**spec.train.params, **parameters})
    rows, columns = steps.split(data, "validate")
    found = metrics.evaluate(spec.task, rows[spec.label.column].to_numpy(float), fitted.predict(rows[columns]))
    metric = tuning_of(spec).objective.metric
    value = found.get(metric)
    if value is None:
        raise ConfigError(f"The validation split of {name} gives no {metric}.", f"Known: {', '.join(found)}.")
    return float(value)


def parsed(tune: Tuning, values: Sequence[str]) -> dict[str, Any]:
    """Return parameters from ``name=value`` texts, each of its type.

    :raises ConfigError: a parameter is missing, unknown or no number.
    """
    given = dict(value.partition("=")[::2] for value in values)
    if set(given) != {each.name for each in tune.parameters}:
        raise ConfigError(f"Parameters given: {', '.join(sorted(given))}.", "Give each of problem.yaml's tune once.")
    found: dict[str, Any] = {}
    for each in tune.parameters:
        text = given[each.name]
        try:
            if each.type == "categorical":
                found[each.name] = text
            elif each.type == "int":
                found[each.name] = int(float(text))
            else:
                number = float(text)
                whole = each.type == "discrete" and all(isinstance(value, int) for value in each.list)
                found[each.name] = int(number) if whole else number
        except ValueError:
            raise ConfigError(f"{each.name}={text!r} is no number.", "Give a number.") from None
    return found


if __name__ == "__main__":
    main()
