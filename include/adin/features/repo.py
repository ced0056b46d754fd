"""The feature repository as it is on disk: Feast's own objects, plus the SQL and raw tables behind them.

Definitions are read by importing ``feature_repo/<domain>/*.py``, never from the registry, whose on-demand views are
pickles.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from functools import cache
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

import yaml

from adin.durations import duration
from adin.errors import ConfigError, NotFoundError
from adin.features.feast_import import import_feast
from adin.settings import settings
from adin.window import Window


@dataclass(frozen=True)
class View:
    """A feature view, or a label table, as a Hive table.

    :param keys: columns that name the entity, in Feast's order; empty for a label table.
    :param key_types: name and Feast type name of each key.
    :param features: name and Feast type name of each feature; empty for a label table.
    :param ttl: how long a value is valid; zero means for ever.
    :param deleted: boolean column that marks a deleted row; the tag ``deleted``. Default none.
    :param online_ttl: how long an entity stays online after a write, the tag ``online_ttl``; zero means for ever.
    :param keeps: whether a write takes an expiry of the entity away: of its views some have a time, some none.
    """

    name: str
    table: str
    keys: tuple[str, ...] = ()
    features: tuple[tuple[str, str], ...] = ()
    ttl: timedelta = timedelta(0)
    event: str = "event_timestamp"
    created: str = "created_timestamp"
    key_types: tuple[tuple[str, str], ...] = ()
    deleted: str = ""
    online_ttl: timedelta = timedelta(0)
    keeps: bool = False

    @property
    def columns(self) -> list[str]:
        """Return what the online store needs of the table."""
        marks = [self.deleted] if self.deleted else []
        return list(dict.fromkeys([*self.keys, *dict(self.features), self.event, self.created, *marks]))


@dataclass(frozen=True)
class OnDemand:
    """An on-demand view: a pandas function over request values and other views' features.

    :param features: name and Feast type name of each feature.
    :param request_types: Feast type name of each request value.
    :param inputs: column of the input frame -> full name of the feature, or the request value itself.
    """

    name: str
    features: tuple[tuple[str, str], ...]
    inputs: Mapping[str, str]
    function: Callable[[Any], Any]
    request_types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawTable:
    """A raw table in HDFS: its columns with Spark types, and whether it lands only when it changes."""

    columns: Mapping[str, str]
    static: bool = False


@dataclass(frozen=True)
class Arrives:
    """When raw data arrives: from the first day on, up to the end of a source that has ended."""

    start: datetime
    end: datetime | None = None


@dataclass(frozen=True)
class Domain:
    """One folder of the feature repository.

    :param pushed: views whose table is also to hold the rows that users push.
    """

    name: str
    path: Path
    views: tuple[View, ...]
    raw: Mapping[str, RawTable]
    reads: Mapping[str, tuple[str, ...]]
    lookback: Mapping[str, timedelta]
    feast_objects: tuple[Any, ...] = field(repr=False)
    arrives: Arrives | None = None
    pushed: frozenset[str] = frozenset()

    def view(self, name: str) -> View:
        """Return one view; :raises NotFoundError: there is none of that name."""
        found = next((view for view in self.views if view.name == name), None)
        if found is None:
            known = ", ".join(view.name for view in self.views)
            raise NotFoundError(f"No view {name!r} in {self.path}.", f"Views: {known}.")
        return found

    def static(self, view: str) -> bool:
        """Tell whether a view reads a table that lands only when it changes: then most days have no partition."""
        return any(self.raw[table].static for table in self.reads[view])

    def sql(self, view: str, window: Window) -> str:
        """Return the view's query for a window."""
        text = (self.path / f"{view}.sql").read_text()
        start, end = (f"{at:%Y-%m-%d %H:%M:%S}" for at in (window.start, window.end))
        return Template(text).safe_substitute(window_start=start, window_end=end)

    def table_folder(self, table: str) -> str:
        """Return the HDFS folder of a raw table."""
        return f"{settings().raw_root}/{self.name}/{table}"

    def folder(self, table: str, day: object) -> str:
        """Return the HDFS folder of a raw table's day."""
        return f"{self.table_folder(table)}/day={day}"


@dataclass(frozen=True)
class Service:
    """What a model sees: a Feast feature service, resolved.

    :param columns: full names ``view__feature`` in the model's order.
    :param request: request values that on-demand views need, without ``prediction_time``.
    """

    name: str
    views: tuple[View, ...]
    on_demand: tuple[OnDemand, ...]
    columns: tuple[str, ...]
    request: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Return every entity key the service needs."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.keys))

    def taken(self, view: View, columns: Collection[str]) -> tuple[str, ...]:
        """Return the features of a view that some of the columns need, for themselves or for on-demand features."""
        made = [each for each in self.on_demand if any(f"{each.name}__{name}" in columns for name, _ in each.features)]
        needed = {*columns, *(source for each in made for source in each.inputs.values())}
        return tuple(name for name, _ in view.features if f"{view.name}__{name}" in needed)

    def on_demand_types(self) -> list[tuple[str, str]]:
        """Return full name and Feast type name of each on-demand feature."""
        return [(f"{view.name}__{name}", kind) for view in self.on_demand for name, kind in view.features]


def with_on_demand(frame: Any, views: tuple[OnDemand, ...]) -> Any:
    """Return a pandas frame with the on-demand features added, offline and online alike.

    :param frame: one row a request: request values, ``prediction_time``, and the other views' features by full name.
    """
    return frame.assign(**on_demand(frame, views))


def on_demand(columns: Any, views: tuple[OnDemand, ...]) -> dict[str, Any]:
    """Return the on-demand features by full name.

    :param columns: a frame as for :func:`with_on_demand`, or a mapping of its columns: cheaper for a few rows.
    """
    import pandas as pd

    added: dict[str, Any] = {}
    for view in views:
        inputs = pd.DataFrame({name: columns[source] for name, source in view.inputs.items()})
        made = view.function(inputs)
        added |= {f"{view.name}__{name}": made[name].to_numpy() for name, _ in view.features}
    return added


def domains() -> list[str]:
    """Return the names of all domains."""
    return sorted(path.parent.name for path in settings().feature_repo.glob("*/raw.yaml"))


@cache
def domain(name: str) -> Domain:
    """Read one domain.

    :raises NotFoundError: there is no such folder.
    :raises ConfigError: its files contradict each other; the message names the file.
    """
    path = settings().feature_repo / name
    if not (path / "raw.yaml").is_file():
        raise NotFoundError(f"No feature domain {name!r} in {settings().feature_repo}.", f"Known: {domains()}.")
    spec = yaml.safe_load((path / "raw.yaml").read_text())
    objects = _feast_objects(path)
    own = _views(objects)
    known = one_ttl(own, _views_of_others(name, needed=any(view.online_ttl for view in own)))
    queries = sorted(file.stem for file in path.glob("*.sql"))
    for view in known:
        if view not in queries:
            raise ConfigError(f"View {view} has no {path / view}.sql.", "Write the query that makes its table.")
    views = tuple(known.get(query) or View(query, f"{name}.{query}") for query in queries)
    reads = {view: tuple(entry["reads"]) for view, entry in spec["views"].items()}
    if missing := [query for query in queries if query not in reads]:
        raise ConfigError(f"{path / 'raw.yaml'} does not say what {', '.join(missing)} reads.")
    for view, tables in reads.items():
        if unknown := [table for table in tables if table not in spec["tables"]]:
            raise ConfigError(
                f"{path / 'raw.yaml'}: {view} reads {', '.join(unknown)}, which is no table declared there."
            )
    pushed = frozenset(view for view, entry in spec["views"].items() if entry.get("pushed", False))
    if unfit := [view for view in sorted(pushed) if any(spec["tables"][table].get("static") for table in reads[view])]:
        raise ConfigError(
            f"{path / 'raw.yaml'}: {', '.join(unfit)} is pushed and reads a static table.",
            "Most of its days have no partition; leave `pushed` away.",
        )
    return Domain(
        name=name,
        path=path,
        views=views,
        raw={table: RawTable(entry["columns"], entry.get("static", False)) for table, entry in spec["tables"].items()},
        reads=reads,
        lookback={view: duration(entry.get("lookback", "0s")) for view, entry in spec["views"].items()},
        feast_objects=objects,
        arrives=_arrives(spec.get("arrives")),
        pushed=pushed,
    )


@cache
def service(domain_name: str, name: str) -> Service:
    """Resolve one feature service.

    :raises NotFoundError: the domain declares no service of that name.
    """
    found = domain(domain_name)
    from feast import FeatureService, FeatureView

    services = {each.name: each for each in found.feast_objects if isinstance(each, FeatureService)}
    if name not in services:
        raise NotFoundError(f"No FeatureService {name!r} in {found.path}.", f"Known: {', '.join(services) or 'none'}.")
    by_name = {each.name: each for each in found.feast_objects if hasattr(each, "name")}
    needed: dict[str, View] = {}
    on_demand: list[OnDemand] = []
    columns: list[str] = []
    request: dict[str, None] = {}
    for projection in services[name].feature_view_projections:
        source = by_name[projection.name]
        features = tuple(feature.name for feature in projection.features)
        columns += [f"{projection.name}__{feature}" for feature in features]
        if type(source) is FeatureView:
            needed[source.name] = found.view(source.name)
            continue
        made = _on_demand(source, tuple((feature.name, str(feature.dtype)) for feature in projection.features))
        on_demand.append(made)
        for base in source.source_feature_view_projections.values():
            needed.setdefault(base.name, found.view(base.name))
        request |= dict.fromkeys(field for field in made.inputs.values() if "__" not in field)
    request.pop("prediction_time", None)
    return Service(name, tuple(needed.values()), tuple(on_demand), tuple(columns), tuple(request))


def quality(domain_name: str) -> Mapping[str, Any]:
    """Return the pandera schema of each table of a domain. Needs pandera, which only the Airflow environment has."""
    path = domain(domain_name).path / "quality.py"
    return module(path).SCHEMAS if path.is_file() else {}


def _arrives(spec: Mapping[str, Any] | None) -> Arrives | None:
    if spec is None:
        return None
    start, end = spec["start"], spec.get("end")
    return Arrives(datetime.combine(start, time(), UTC), datetime.combine(end, time(), UTC) if end else None)


def _views(objects: Iterable[Any]) -> list[View]:
    from feast import Entity, FeatureView

    entities = {found.name: found for found in objects if isinstance(found, Entity)}
    return [as_view(found, entities) for found in objects if type(found) is FeatureView]


def _views_of_others(name: str, *, needed: bool) -> list[View]:
    """Return the views of the other domains.

    :param needed: else a domain that cannot be read is left out: its times could only take an expiry away.
    """
    found: list[View] = []
    for other in domains():
        if other != name:
            try:
                found += _views(_feast_objects(settings().feature_repo / other))
            except Exception:  # whatever is wrong there
                if needed:
                    raise
    return found


def as_view(found: Any, entities: Mapping[str, Any]) -> View:
    """Return a feature view of Feast as a :class:`View`.

    :param entities: Feast's entities by name.
    """
    key_types = tuple((entities[name].join_key, _key_type(entities[name])) for name in found.entities)
    keys = tuple(name for name, _ in key_types)
    features = tuple((feature.name, str(feature.dtype)) for feature in found.features)
    ttl = found.ttl or timedelta(0)
    source = found.batch_source
    created = source.created_timestamp_column or source.timestamp_field
    return View(
        name=found.name,
        table=table(source),
        keys=keys,
        features=features,
        ttl=ttl,
        event=source.timestamp_field,
        created=created,
        key_types=key_types,
        deleted=found.tags.get("deleted", ""),
        online_ttl=online_ttl(found),
    )


def table(source: Any) -> str:
    """Return the table of a source of Spark or PostgreSQL; of one that is a query, no name of a table."""
    return str((source.table if hasattr(source, "table") else source.get_table_query_string()) or "")


def online_ttl(found: Any) -> timedelta:
    """Return how long an entity stays online after a write of a feature view of Feast; zero means for ever."""
    tag = found.tags.get("online_ttl")
    try:
        time_online: timedelta = duration(tag) if tag else timedelta(seconds=settings().online_ttl)
    except ValueError as error:
        raise ConfigError(f"The tag online_ttl of {found.name}: {error}.") from None
    return time_online


def one_ttl(views: list[View], others: Iterable[View] = ()) -> dict[str, View]:
    """Give views of one entity the longest of their times: Redis lets the entity go as a whole.

    :param others: views of other domains, whose times count as well. Default none.
    """
    times: dict[tuple[str, ...], list[timedelta]] = {}
    for view in (*views, *others):
        times.setdefault(tuple(sorted(view.keys)), []).append(view.online_ttl)
    return {view.name: with_ttl(view, times[tuple(sorted(view.keys))]) for view in views}


def with_ttl(view: View, times: list[timedelta]) -> View:
    """Return a view with the longest of the times of all views of its entity; zero, for ever, where one is."""
    return replace(view, online_ttl=max(times) if all(times) else timedelta(0), keeps=any(times) and not all(times))


def _key_type(entity: Any) -> str:
    from feast.types import from_value_type
    from feast.value_type import ValueType

    if entity.value_type == ValueType.UNKNOWN:
        raise ConfigError(f"Entity {entity.name} has no type.", "Give it value_type=ValueType.STRING or another.")
    return str(from_value_type(entity.value_type))


def _on_demand(source: Any, features: tuple[tuple[str, str], ...]) -> OnDemand:
    inputs: dict[str, str] = {}
    for projection in source.source_feature_view_projections.values():
        inputs |= {feature.name: f"{projection.name}__{feature.name}" for feature in projection.features}
    request = {item.name: str(item.dtype) for asked in source.source_request_sources.values() for item in asked.schema}
    inputs |= {name: name for name in request}
    return OnDemand(source.name, features, inputs, source.feature_transformation.udf, request)


def read_anew() -> None:
    """Forget what was read, for processes that outlive a change of the definitions."""
    _feast_objects.cache_clear()
    domain.cache_clear()
    service.cache_clear()


def definitions_hash(name: str) -> str:
    """Return the SHA-256 of a domain's Python files: what a training set and a model were made with."""
    digest = hashlib.sha256()
    root = settings().feature_repo / name
    for path in sorted(found for found in root.rglob("*.py") if "demo" not in found.relative_to(root).parts):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _feast_objects(path: Path) -> tuple[Any, ...]:
    import_feast()
    from feast import Entity, FeatureService, FeatureView
    from feast.data_source import DataSource
    from feast.on_demand_feature_view import OnDemandFeatureView

    kinds = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
    found: dict[tuple[str, str], Any] = {}
    for file in sorted(path.glob("*.py")):
        if file.name == "quality.py":
            continue
        for value in vars(module(file)).values():
            if isinstance(value, kinds):
                found[type(value).__name__, value.name] = value
    return tuple(found.values())


def module(file: Path) -> ModuleType:
    """Import a Python file of a domain.

    :raises ConfigError: it cannot be imported.
    """
    name = f"adin_feature_repo_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        with warnings.catch_warnings():
            # Feast calls its Spark source experimental each time one is made
            warnings.simplefilter("ignore", RuntimeWarning)
            spec.loader.exec_module(loaded)
    except Exception as error:
        raise ConfigError(f"{file} cannot be imported: {error!r}.") from error
    return loaded
