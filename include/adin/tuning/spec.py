"""What is tuned, by which search, for how long. Only what means the same to Optuna and to Katib can be written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adin.durations import Duration

#: Searches both engines have. Katib has more, for which Optuna has no counterpart here, and the other way round.
ALGORITHMS = ("random", "grid", "tpe", "multivariate-tpe")
_LONGEST_GRID = 10_000


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Objective(_Spec):
    """What a trial is judged by, on the validation split.

    :param goal: the search ends as soon as a trial is this good.
    """

    type: Literal["maximize", "minimize"]
    metric: str
    goal: float | None = None

    @field_validator("goal")
    @classmethod
    def _finite(cls, goal: float | None) -> float | None:
        if goal is not None and not math.isfinite(goal):
            raise ValueError("it must be a finite number")
        return goal

    def reached(self, value: float) -> bool:
        """Tell whether a value is as good as the goal."""
        if self.goal is None:
            return False
        return value <= self.goal if self.type == "minimize" else value >= self.goal


class Parameter(_Spec):
    """One hyperparameter and the values it may take.

    :param min: smallest and :param max: largest value of a ``double`` or ``int``.
    :param step: between two values; a ``double`` without is continuous.
    :param list: values of a ``categorical`` (texts) or ``discrete`` (numbers).
    :param distribution: how a ``double`` or ``int`` is drawn.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    type: Literal["double", "int", "categorical", "discrete"]
    min: float | None = None
    max: float | None = None
    step: float | None = Field(None, gt=0)
    list: tuple[str | int | float, ...] = ()
    distribution: Literal["uniform", "logUniform"] = "uniform"

    @model_validator(mode="after")
    def _agrees_with_its_type(self) -> Parameter:
        wrong = self._listed() if self.type in ("categorical", "discrete") else self._ranged()
        if wrong:
            raise ValueError(wrong)
        return self

    def _listed(self) -> str:
        if self.min is not None or self.max is not None or self.step is not None:
            return f"a {self.type} parameter has a list, not min, max or step"
        if self.distribution != "uniform":
            return f"a {self.type} parameter has no distribution"
        if not self.list or len(set(self.list)) < len(self.list):
            return "list needs values, each once"
        kind: Any = str if self.type == "categorical" else (int, float)
        if not all(isinstance(value, kind) for value in self.list):
            return f"the list of a {self.type} parameter holds {'texts' if kind is str else 'numbers'}"
        return ""

    def _ranged(self) -> str:
        if self.list:
            return f"a {self.type} parameter has min and max, not a list"
        if self.min is None or self.max is None or not self.min < self.max or not math.isfinite(self.max - self.min):
            return "min and max are needed, min the smaller"
        whole = [value for value in (self.min, self.max, self.step) if value is not None]
        if self.type == "int" and not all(value == int(value) for value in whole):
            return "min, max and step of an int must be whole numbers"
        if self.distribution == "logUniform":
            if self.step is not None:
                return "Optuna knows no step with logUniform"
            if self.min <= 0:
                return "logUniform needs a min above 0"
        return ""

    @property
    def values(self) -> Sequence[Any] | None:
        """Return all values in order; None where there are infinitely many."""
        if self.list:
            return [*self.list]
        assert self.min is not None
        assert self.max is not None
        step = self.step or (1.0 if self.type == "int" else None)
        if step is None:
            return None
        count = math.floor((self.max - self.min) / step + 1e-9) + 1
        found = [self.min + n * step for n in range(count)]
        return [int(value) for value in found] if self.type == "int" else found


class Tuning(_Spec):
    """A search for hyperparameters; opt-in, and no part of scheduled training. Keys are named as in Katib.

    :param algorithm: ``random``, ``grid``, ``tpe`` or ``multivariate-tpe``.
    :param seed: of the search; the same seed, one trial at a time, gives the same search.
    :param maxTrialCount: trials, failed ones too. :param parallelTrialCount: at a time.
    :param maxFailedTrialCount: more failed trials end the search, and it has failed.
    :param deadline: of the whole search; each trial gets its part of it.
    """

    objective: Objective
    algorithm: str = "tpe"
    seed: int = Field(7, ge=0, lt=2**31)
    parameters: tuple[Parameter, ...] = Field(min_length=1)
    maxTrialCount: int = Field(20, ge=1, le=10_000)
    parallelTrialCount: int = Field(1, ge=1, le=100)
    maxFailedTrialCount: int = Field(3, ge=0)
    deadline: Duration = timedelta(minutes=30)

    @field_validator("algorithm")
    @classmethod
    def _in_both_engines(cls, name: str) -> str:
        if name not in ALGORITHMS:
            raise ValueError(f"{name!r} is no search which Katib and Optuna both have; write {', '.join(ALGORITHMS)}")
        return name

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Tuning:
        names = [each.name for each in self.parameters]
        if len(set(names)) < len(names):
            raise ValueError("parameters: a name stands twice")
        if self.parallelTrialCount > self.maxTrialCount:
            raise ValueError("parallelTrialCount is above maxTrialCount")
        if self.deadline < timedelta(seconds=1):
            raise ValueError("deadline: at least 1s is needed")
        if self.algorithm == "grid":
            self._grid()
        return self

    def _grid(self) -> None:
        size = 1
        for each in self.parameters:
            if each.distribution != "uniform":
                raise ValueError(f"parameters: a grid has no logUniform; give {each.name} a list")
            if each.values is None:
                raise ValueError(f"parameters: a grid needs a step for {each.name}")
            size *= len(each.values)
        if size > _LONGEST_GRID:
            raise ValueError(f"parameters: a grid of {size} points; at most {_LONGEST_GRID}")

    @property
    def trial_deadline(self) -> timedelta:
        """Return how long one trial may take, so that all of them keep the deadline."""
        return self.deadline / math.ceil(self.maxTrialCount / self.parallelTrialCount)
