"""Every mistake in a problem's two files, found in one pass, each with its line and its remedy."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from adin import yaml_lines
from adin.errors import AdinError, NotFoundError
from adin.problem import Problem, names
from adin.settings import ROOT, settings

_DOCS = "See docs/problems.md."
_WAY = {"maximize": "higher", "minimize": "lower"}


@dataclass(frozen=True, order=True)
class Mistake:
    """One thing that is wrong.

    :param what: the key, and what is wrong with it.
    :param remedy: what to write instead.
    """

    file: Path
    line: int
    what: str
    remedy: str = _DOCS

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what} {self.remedy}"


class _Found:
    """The mistakes of one problem.yaml, and where its values stand."""

    def __init__(self, file: Path, lines: Mapping[yaml_lines.Place, int]) -> None:
        self.file = file
        self.lines = lines
        self.mistakes: list[Mistake] = []

    def add(self, place: Sequence[str | int], what: str, remedy: str = _DOCS) -> None:
        name = ".".join(map(str, place))
        told = f"{name}: {what}" if name else what
        self.mistakes.append(Mistake(self.file, yaml_lines.line(self.lines, place), told, remedy))


def check(name: str) -> list[Mistake]:
    """Return the mistakes of a problem, by file and line; none means it can be trained.

    :raises NotFoundError: there is no such folder.
    """
    folder = settings().problems / name
    file = folder / "problem.yaml"
    if not file.is_file():
        known = ", ".join(names()) or "none"
        raise NotFoundError(
            f"No problem {name!r} in {settings().problems}.", f"Known: {known}. Make one: `adin problem new {name}`."
        )
    mistakes = [*_code(folder / "train.py")]
    try:
        spec, lines = yaml_lines.read(file.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"no YAML: {getattr(error, 'problem', None) or error}."
        return sorted([*mistakes, Mistake(file, mark.line + 1 if mark else 1, what, "Mend it; nothing else was read.")])
    if not isinstance(spec, dict):
        return sorted([*mistakes, Mistake(file, 1, "it holds no mapping.")])
    found = _Found(file, lines)
    _form(found, spec, folder)
    _metrics(found, spec)
    _tuning(found, spec)
    _times(found, spec)
    _features(found, spec)
    return sorted({*mistakes, *found.mistakes})


def _form(found: _Found, spec: dict[str, Any], folder: Path) -> None:
    try:
        Problem(**{str(key): value for key, value in spec.items() if key != "path"}, path=folder)
    except ValidationError as error:
        for each in error.errors():
            place = tuple(each["loc"])
            remedy = _DOCS
            if each["type"] == "extra_forbidden":
                each["msg"], remedy = "there is no such key.", _nearest(str(place[-1]), _keys(place[:-1]))
            elif each["type"] == "missing":
                each["msg"], remedy = "this key is missing.", "Write it."
            found.add(place, each["msg"].rstrip(".") + ".", remedy)
    if isinstance(spec.get("name"), str) and spec["name"] != folder.name:
        found.add(["name"], f"it is {spec['name']!r} but the folder is {folder.name!r}.", "Make them equal.")


def _keys(place: Sequence[str | int]) -> list[str]:
    """Return the keys which the form knows at a place."""
    model: Any = Problem
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return [name for name in getattr(model, "model_fields", {}) if name != "path"]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known) or 'none'}."


def _metrics(found: _Found, spec: Mapping[str, Any]) -> None:
    """The metrics of the policy exist, can be compared, and mean something for the task."""
    from adin.promotion.metrics import FOR_TASK, ROWS

    policy, task = _mapping(spec, "promotion"), spec.get("task")
    if not isinstance(task, str) or task not in FOR_TASK:
        return
    usable = list(FOR_TASK[task])
    by_day = [name for name in usable if name in ROWS]

    def judge(place: Sequence[str | int], name: Any, allowed: list[str], use: str) -> None:
        if isinstance(name, str) and name not in allowed:
            found.add(place, f"{name!r} cannot be {use} for a {task} problem.", f"Write one of {', '.join(allowed)}.")

    judge(["promotion", "primary"], policy.get("primary"), by_day, "compared by day")
    for name in _mapping(policy, "absolute"):
        judge(["promotion", "absolute", name], name, usable, "bounded")
    rails = by_day + [name for name in usable if name == "auc"]
    for number, rail in enumerate(_list(policy, "guardrails")):
        if isinstance(rail, dict):
            judge(["promotion", "guardrails", number, "metric"], rail.get("metric"), rails, "guarded")
    if task == "regression" and policy.get("min_positives"):
        found.add(["promotion", "min_positives"], "a regression has no positives.", "Use min_rows.")


def _tuning(found: _Found, spec: Mapping[str, Any]) -> None:
    """What is tuned is measured for the task, and its direction is the metric's."""
    from adin.promotion.metrics import HIGHER, OF_TASK

    objective, task = _mapping(_mapping(spec, "tune"), "objective"), spec.get("task")
    metric, way = objective.get("metric"), objective.get("type")
    if not isinstance(task, str) or task not in OF_TASK or not isinstance(metric, str):
        return
    place, best = ["tune", "objective"], "maximize" if metric in HIGHER else "minimize"
    if metric not in OF_TASK[task]:
        told = f"{metric!r} is not measured for a {task} problem."
        found.add([*place, "metric"], told, f"Write one of {', '.join(OF_TASK[task])}.")
    elif way in ("maximize", "minimize") and way != best:
        found.add([*place, "type"], f"{metric} is the better the {_WAY[best]}.", f"Write {best}.")


def _times(found: _Found, spec: Mapping[str, Any]) -> None:
    run = _mapping(spec, "run")
    if isinstance(cron := run.get("cron"), str):
        from croniter import croniter

        if not croniter.is_valid(cron):
            found.add(["run", "cron"], f"{cron!r} is no cron time.", 'Write five fields, such as "0 3 * * MON".')
    source = run.get("on_data")
    known = _domains()
    if isinstance(source, str) and source not in known:
        found.add(["run", "on_data"], f"there is no feature domain {source!r}.", _nearest(source, known))


def _domains() -> list[str]:
    return sorted(path.parent.name for path in settings().feature_repo.glob("*/raw.yaml"))


def _features(found: _Found, spec: Mapping[str, Any]) -> None:
    """What the problem names of its feature domain is there, and the example has all that a request needs."""
    from adin.features import repo

    domain = spec.get("domain")
    if not isinstance(domain, str):
        return
    if domain not in _domains():
        found.add(["domain"], f"there is no {settings().feature_repo / domain}.", _nearest(domain, _domains()))
        return
    try:
        read = repo.domain(domain)
    except AdinError as error:
        found.add(["domain"], str(error), "")
        return
    _label(found, spec, read)
    if not isinstance(asked := spec.get("features"), str):
        return
    try:
        service = repo.service(domain, asked)
    except AdinError as error:
        found.add(["features"], str(error), "")
        return
    _columns(found, spec, service)
    for part in ("max_age", "missing"):
        for view in _mapping(_mapping(spec, "serving"), part):
            known = [each.name for each in service.views]
            if view not in known:
                found.add(["serving", part, view], "the service has no such view.", _nearest(str(view), known))
    example = spec.get("example")
    needed = dict.fromkeys([*service.keys, *service.request, str(spec.get("event_time"))])
    if isinstance(example, dict) and (missing := [name for name in needed if name not in example]):
        found.add(["example"], f"it lacks {', '.join(missing)}.", "A request names entity keys and request values.")


def _label(found: _Found, spec: Mapping[str, Any], domain: Any) -> None:
    table = _mapping(spec, "label").get("table")
    if not isinstance(table, str) or "." not in table:
        return
    owner, _, name = table.partition(".")
    known = [f"{domain.name}.{view.name}" for view in domain.views if not view.features]
    if owner == domain.name and table not in known:
        found.add(["label", "table"], f"{domain.path} has no label table {name!r}.", _nearest(table, known))


def _columns(found: _Found, spec: Mapping[str, Any], service: Any) -> None:
    policy = _mapping(spec, "promotion")
    named: list[tuple[list[str | int], Any]] = [
        (["promotion", "slices", n], column) for n, column in enumerate(_list(policy, "slices"))
    ]
    if policy.get("baseline") is not None:
        named.append((["promotion", "baseline"], policy["baseline"]))
    for number, rail in enumerate(_list(policy, "guardrails")):
        if isinstance(rail, dict):
            place: list[str | int] = ["promotion", "guardrails", number, "slices"]
            named += [([*place, n], column) for n, column in enumerate(_list(rail, "slices"))]
    ignored = _list(_mapping(spec, "drift"), "ignore")
    named += [(["drift", "ignore", number], column) for number, column in enumerate(ignored)]
    for where, column in named:
        if isinstance(column, str) and column not in service.columns:
            found.add(where, f"{column!r} is no feature of {service.name}.", _nearest(column, service.columns))


def _code(file: Path) -> Iterator[Mistake]:
    """``train.py`` is read, not run: its libraries may be absent where the check runs."""
    form = "It must hold `def fit(train, label, params)`."
    if not file.is_file():
        yield Mistake(file, 1, "the file is missing.", form)
        return
    try:
        tree = ast.parse(file.read_text())
    except (SyntaxError, ValueError) as error:
        yield Mistake(file, getattr(error, "lineno", None) or 1, f"no Python: {getattr(error, 'msg', error)}.", "")
        return
    fit = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit"), None)
    if fit is None:
        yield Mistake(file, 1, "there is no function fit.", form)
    elif len(fit.args.args) != 3:
        yield Mistake(file, fit.lineno, "fit takes other arguments.", form)


def _mapping(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = spec.get(key)
    return value if isinstance(value, dict) else {}


def _list(spec: Mapping[str, Any], key: str) -> list[Any]:
    value = spec.get(key)
    return value if isinstance(value, list) else []


def shown(file: Path) -> str:
    """Return a path as people write it: below the project where it lies there."""
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
