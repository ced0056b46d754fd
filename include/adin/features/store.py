"""Feast, configured in code from the connection ``feast``, and its registry kept in step with the repository."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from adin.connections import Connection, connection
from adin.errors import ConfigError, NotFoundError, ServiceError
from adin.features import codec, repo, shards
from adin.features.feast_import import import_feast
from adin.settings import settings
from adin.window import Window


@dataclass(frozen=True)
class Change:
    """One object of the registry that differs from the repository.

    :param action: ``added``, ``changed`` or ``removed``.
    :param kind: Feast's name of the class, such as ``FeatureView``.
    :param details: per changed property, what it was and what it becomes.
    """

    action: str
    kind: str
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        sign = {"added": "+", "changed": "~", "removed": "-"}[self.action]
        return "\n".join([f"{sign} {self.kind} {self.name}", *(f"    {line}" for line in self.details)])


@dataclass(frozen=True)
class Plan:
    """The difference between the feature repository and the registry; removed objects stay unless asked."""

    domain: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or f"The registry has {self.domain} as it is in the repository."

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)


def feature_store(conn: Connection | None = None, *, offline: bool = False) -> Any:
    """Return a stock ``feast.FeatureStore``.

    :param conn: default the connection ``feast``.
    :param offline: with the Spark offline store on Hive; needs pyspark. Default False: registry and online store only.
    :raises ConfigError: the connection lacks something.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="feast")
    import_feast()
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    conn = conn or connection("feast")
    if not conn.extra.get("registry"):
        raise ConfigError("The connection feast names no registry.", "Add extra.registry; see docs/connections.md.")
    config = RepoConfig(
        project=settings().project,
        provider="local",
        registry={"registry_type": "sql", "path": conn.extra["registry"], "cache_ttl_seconds": 60},
        online_store={"type": "redis", "redis_type": _redis_type(conn), "connection_string": _redis(conn)},
        entity_key_serialization_version=3,
        **({"offline_store": _spark()} if offline else {}),
    )
    try:
        return FeatureStore(config=config)
    except Exception as error:
        raise _unreachable(error) from error


def environment() -> dict[str, str]:
    """Return the variables with which the stock Feast command line reads ``feature_repo/feature_store.yaml``.

    :raises ConfigError: a connection lacks something.
    """
    feast, spark = connection("feast"), connection("spark")
    return {
        "FEAST_REGISTRY": str(feast.extra["registry"]),
        "FEAST_REDIS": _redis(feast),
        "FEAST_REDIS_TYPE": _redis_type(feast),
        "HIVE_METASTORE": str(spark.extra["metastore"]),
    }


def _redis_type(conn: Connection) -> str:
    return "redis_cluster" if shards.mode(conn) == "cluster" else "redis"


def _redis(conn: Connection) -> str:
    """Return the servers as Feast's connection string; of several independent ones, which it does not know, the first.

    :raises ConfigError: a value cannot stand there.
    """
    tls = bool(conn.extra.get("tls"))
    options = {"password": conn.password, "username": conn.login, "ssl": tls}
    options |= {"ssl_ca_certs": conn.extra.get("ca_file")} if tls else {}
    # each value is read as JSON: a password of digits must stay a text
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value]
    if any("," in each for each in given):
        raise ConfigError("Feast cannot read a Redis user, password or file with a comma.", "Change it.")
    known = shards.addresses(conn) if shards.mode(conn) == "cluster" else shards.addresses(conn)[:1]
    return ",".join([*(f"{host}:{port}" for host, port in known), *given])


def plan(domain: str) -> Plan:
    """Return what :func:`apply` would change, and which objects of the registry no domain of the repository has.

    :raises NotFoundError: there is no such domain.
    :raises ConfigError: its definitions contradict each other.
    """
    return _plan(domain, feature_store())[0]


def apply(domain: str, *, delete: bool = False) -> Plan:
    """Bring the registry to what the repository says and return what changed; applied again, nothing does.

    :param delete: also remove objects no domain has, and what is online of removed views. Default False.
    :raises ConfigError: definitions contradict each other, or two features of an entity share a hash field in Redis.
    """
    found = repo.domain(domain)
    _check_fields(found.views)
    store = feature_store()
    planned, objects, unknown = _plan(domain, store)
    if not delete:
        planned = Plan(domain, tuple(change for change in planned.changes if change.action != "removed"))
        unknown = []
    if planned.changes:
        try:
            store.apply(objects, objects_to_delete=unknown, partial=not delete)
        except Exception as error:
            raise ConfigError(f"Feast refused the definitions of {domain}: {error}.") from error
    return planned


def record_interval(view: str, window: Window) -> None:
    """Record in Feast's registry that a window of a view is online; overlapping intervals become one.

    :raises NotFoundError: the view was never applied.
    """
    from feast.errors import FeatureViewNotFoundException

    store = feature_store()
    project = store.project
    try:
        found = store.registry.get_feature_view(view, project, allow_cache=False)
        store.registry.apply_materialization(found, project, window.start, window.end)
        found = store.registry.get_feature_view(view, project, allow_cache=False)
    except FeatureViewNotFoundException:
        raise NotFoundError(f"Feast's registry has no view {view}.", "Run `adin features apply` first.") from None
    merged = _merged(found.materialization_intervals)
    if merged != sorted(found.materialization_intervals):
        found.materialization_intervals = merged
        store.registry.apply_feature_view(found, project)


def intervals(view: str) -> list[Window]:
    """Return the windows of a view that were loaded online; none if it was never applied."""
    return all_intervals([view])[view]


def all_intervals(views: Iterable[str]) -> dict[str, list[Window]]:
    """Return :func:`intervals` of each of some views."""
    from feast.errors import FeatureViewNotFoundException

    store = feature_store()
    found: dict[str, list[Window]] = {}
    for view in views:
        try:
            spans = store.registry.get_feature_view(view, store.project, allow_cache=False).materialization_intervals
        except FeatureViewNotFoundException:
            spans = []
        found[view] = [Window(start, end) for start, end in _merged(spans)]
    return found


def _merged(spans: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    merged: list[tuple[Any, Any]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _plan(domain: str, store: Any) -> tuple[Plan, list[Any], list[Any]]:
    """Return the plan, the repository's objects, and the registry's objects that no domain has."""
    objects = [_fresh(found) for found in _declared(domain)]
    _infer(store, objects)
    registered = {(_kind(each), each.name): each for each in _registered(store)}
    changes = []
    for each in objects:
        before = registered.get((_kind(each), each.name))
        if before is None:
            changes.append(Change("added", _kind(each), each.name))
        elif details := _differences(before, each):
            changes.append(Change("changed", _kind(each), each.name, details))
    known = {(_kind(each), each.name) for name in repo.domains() for each in _declared(name)}
    unknown = [each for key, each in registered.items() if key not in known]
    changes += [Change("removed", _kind(each), each.name) for each in unknown]
    return Plan(domain, tuple(sorted(changes, key=lambda change: (change.kind, change.name)))), objects, unknown


def _declared(domain: str) -> list[Any]:
    """Return a domain's objects with the sources of its views, which Feast registers by themselves."""
    found = {(_kind(each), each.name): each for each in repo.domain(domain).feast_objects}
    for each in list(found.values()):
        sources = [getattr(each, name, None) for name in ("batch_source", "stream_source")]
        for source in (*sources, *getattr(each, "source_request_sources", {}).values()):
            if source is not None:
                found.setdefault((_kind(source), source.name), source)
    return list(found.values())


def _fresh(found: Any) -> Any:
    """Return a copy: Feast fills in and stamps the objects it is given."""
    return copy.copy(found)


def _infer(store: Any, objects: list[Any]) -> None:
    """Let Feast fill in what it would on apply, such as the entity columns of a view."""
    from feast import Entity, FeatureService, FeatureView
    from feast.data_source import DataSource
    from feast.on_demand_feature_view import OnDemandFeatureView

    def of(kind: type) -> list[Any]:
        return [each for each in objects if isinstance(each, kind)]

    store._make_inferences(
        of(DataSource), of(Entity), of(FeatureView), of(OnDemandFeatureView), [], of(FeatureService), []
    )


def _registered(store: Any) -> list[Any]:
    from feast.feature_view import DUMMY_ENTITY_NAME

    registry, project = store.registry, store.project
    try:
        registry.refresh(project)
        found = [
            *registry.list_entities(project),
            *registry.list_data_sources(project),
            *registry.list_feature_views(project),
            *registry.list_on_demand_feature_views(project),
            *registry.list_feature_services(project),
        ]
    except Exception as error:
        raise _unreachable(error) from error
    return [each for each in found if each.name != DUMMY_ENTITY_NAME]


def _kind(found: Any) -> str:
    return type(found).__name__


def _differences(before: Any, after: Any) -> tuple[str, ...]:
    """Return the properties in which two objects differ, without those that Feast alone writes."""
    from google.protobuf.json_format import MessageToDict

    def facts(found: Any) -> dict[str, Any]:
        message = found.to_proto()
        told = MessageToDict(getattr(message, "spec", message), preserving_proto_field_name=True)
        plain: dict[str, Any] = _plain({key: value for key, value in told.items() if key not in _FEASTS_OWN})
        return plain

    old, new = facts(before), facts(after)
    return tuple(
        f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


_FEASTS_OWN = {"project", "meta", "version", "current_version_number", "state"}


def _plain(value: Any) -> Any:
    """Return facts without what Feast adds to a stored object and with lists of named things in one order."""
    if isinstance(value, dict):
        # a pickled function differs between runs; its source text says whether it changed
        return {key: _plain(each) for key, each in value.items() if key not in {"body", "meta"}}
    if isinstance(value, list):
        plain = [_plain(each) for each in value]
        named = all(isinstance(each, dict) and "name" in each for each in plain)
        return sorted(plain, key=lambda each: str(each["name"])) if named else plain
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _check_fields(views: Iterable[repo.View]) -> None:
    """Refuse two features which Feast would write to the same hash field of one entity."""
    taken: dict[tuple[tuple[str, ...], bytes], str] = {}
    for view in views:
        for name, _ in view.features:
            key = (tuple(sorted(view.keys)), codec.field_name(view.name, name))
            if key in taken:
                raise ConfigError(
                    f"{view.name}:{name} and {taken[key]} have the same hash in Redis and would overwrite each other.",
                    "Rename one of them.",
                )
            taken[key] = f"{view.name}:{name}"


def _spark() -> dict[str, Any]:
    spark = connection("spark")
    return {
        "type": "adin.features.feast_offline.PointInTimeOfflineStore",
        "spark_conf": {
            "spark.master": spark.host,
            "spark.sql.catalogImplementation": "hive",
            "spark.hadoop.hive.metastore.uris": spark.extra["metastore"],
            "spark.sql.session.timeZone": "UTC",
        },
    }


def _unreachable(error: Exception) -> Exception:
    if "OperationalError" in type(error).__name__:
        return ServiceError(f"Feast's registry does not answer: {error}.", "Check the connection feast.")
    return error
