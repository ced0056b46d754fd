"""Feast, configured in code from the connection ``feast``, and its registry kept in step with the repository."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from adin.connections import Connection, connection
from adin.errors import AdinError, ConfigError, NotFoundError, RefusedError, ServiceError
from adin.features import codec, promises, repo, shards
from adin.features.feast_import import import_feast
from adin.features.registry_merge import definition, joined
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
    """The difference between the feature repository and the registry; removed objects stay unless asked.

    :param destructive: what the changes take away from those who read features, a line each; needs approval.
    :param needed: who still needs some of it: then it is refused, approved or not.
    """

    domain: str
    changes: tuple[Change, ...]
    destructive: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = [*map(str, self.changes)]
        told += ["Destructive:", *(f"    {line}" for line in self.destructive)] if self.destructive else []
        told += ["Refused, as still needed:", *(f"    {line}" for line in self.needed)] if self.needed else []
        return "\n".join(told) or f"The registry has {self.domain} as it is in the repository."

    @property
    def to_load(self) -> list[str]:
        """Return the views with features that are not online yet."""
        return [
            change.name
            for change in self.changes
            if change.kind == "FeatureView"
            and (change.action == "added" or any(line.startswith("features:") for line in change.details))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)

    def check(self, *, approve: bool) -> None:
        """Let the plan pass.

        :raises RefusedError: a model or problem needs what it takes away, or it destroys and nobody approved.
        """
        if self.needed:
            listed = "\n  ".join(self.needed)
            raise RefusedError(f"The definitions of {self.domain} take away what is needed:\n  {listed}")
        if self.destructive and not approve:
            listed = "\n  ".join(self.destructive)
            raise RefusedError(
                f"The definitions of {self.domain} take something away:\n  {listed}\n",
                "If that is meant, apply with --approve (in the DAG: Approve).",
            )


def feature_store(conn: Connection | None = None, *, offline: bool = False) -> Any:
    """Return a stock ``feast.FeatureStore``.

    :param conn: default the connection ``feast``.
    :param offline: with the offline store of the edition in force; that of Hive needs pyspark. Default False: registry
        and online store only.
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
        registry=_registry(conn),
        online_store={"type": _store_type(conn), "redis_type": _redis_type(conn), "connection_string": _redis(conn)},
        entity_key_serialization_version=3,
        **({"offline_store": _offline(conn)} if offline else {}),
    )
    try:
        made = FeatureStore(config=config)
    except Exception as error:
        raise _unreachable(error) from error
    # a stock `feast materialize` marks its view, which Feast would then refuse to read until it ends, or for ever
    made.registry.serve_features_while_materializing = True
    return made


def environment() -> dict[str, str]:
    """Return the variables with which the stock Feast command line reads ``feature_repo/feature_store.yaml``.

    :raises ConfigError: a connection lacks something.
    """
    feast = connection("feast")
    registry = _registry(feast)
    return {
        **({"ADIN_CONN_S3": connection("s3").uri} if registry["registry_type"] == "file" else {}),
        "FEAST_REGISTRY": str(feast.extra["registry"]),
        "FEAST_REGISTRY_TYPE": str(registry["registry_type"]),
        "FEAST_REDIS": _redis(feast),
        "FEAST_REDIS_TYPE": _redis_type(feast),
        "FEAST_OFFLINE_STORE": json.dumps(_offline(feast)),
    }


def _redis_type(conn: Connection) -> str:
    return {"single": "redis", "cluster": "redis_cluster", "servers": "servers"}[shards.mode(conn)]


def _store_type(conn: Connection) -> str:
    """Return Feast's own class where it can do it; it would read and write the first of several servers only."""
    return "adin.features.feast_online.RedisOnlineStore" if shards.mode(conn) == "servers" else "redis"


def bucket_registry(conn: Connection | None = None) -> Any:
    """Return the registry's file edition; :raises ConfigError: the registry lies in a database."""
    where = str((conn or connection("feast")).extra.get("registry", ""))
    if not where.startswith("s3://"):
        raise ConfigError(
            "The connection feast has its registry in a database, which keeps no earlier states.",
            "Use the database's own backups, or a registry s3://bucket/key.",
        )
    from adin.features.registry_file import BucketRegistryStore

    return BucketRegistryStore(SimpleNamespace(path=where))


def _registry(conn: Connection) -> dict[str, Any]:
    where = str(conn.extra["registry"])
    in_bucket = where.startswith("s3://")
    return {
        "registry_type": "file" if in_bucket else "sql",
        "registry_store_type": "adin.features.registry_file.BucketRegistryStore",  # Feast's SQL registry ignores it
        "path": where,
        "cache_ttl_seconds": 60,
    }


@contextmanager
def _alone(store: Any) -> Iterator[None]:
    """Hold off other changes of a registry in PostgreSQL, whose rows Feast reads and writes without a lock.

    In S3 nobody waits: who comes second is merged. SQLite is for one process.
    """
    engine = getattr(store.registry, "write_engine", None)
    if engine is None or engine.dialect.name != "postgresql":
        yield
        return
    from sqlalchemy import text

    with engine.begin() as held:
        held.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"feast {store.project}"})
        yield


def _redis(conn: Connection) -> str:
    """Return the servers as Feast's connection string.

    :raises ConfigError: a value cannot stand there.
    """
    tls = bool(conn.extra.get("tls"))
    options = {"password": conn.password, "username": conn.login, "ssl": tls}
    options |= {"ssl_ca_certs": conn.extra.get("ca_file")} if tls else {}
    # each value is read as JSON: a password of digits must stay a text
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value]
    if any("," in each for each in given):
        raise ConfigError("Feast cannot read a Redis user, password or file with a comma.", "Change it.")
    known = shards.addresses(conn)[: 1 if shards.mode(conn) == "single" else None]
    return ",".join([*(f"{host}:{port}" for host, port in known), *given])


def plan(domain: str, *, delete: bool = False) -> Plan:
    """Return what :func:`apply` would change, and which objects of the registry no domain of the repository has.

    :param delete: count the loss of these objects as well.
    :raises NotFoundError: there is no such domain.
    :raises ConfigError: its definitions contradict each other.
    """
    return _plan(domain, feature_store(), delete)[0]


def apply(domain: str, *, delete: bool = False, approve: bool = False) -> Plan:
    """Bring the registry to what the repository says and return what changed; applied again, nothing does.

    :param delete: also remove objects no domain has, and what is online of removed views. Default False.
    :param approve: whether features may be taken away, or changed in type or key. Default False.
    :raises ConfigError: definitions contradict each other, or two features of an entity share a hash field in Redis.
    :raises RefusedError: see :meth:`Plan.check`.
    """
    found = repo.domain(domain)
    _check_fields(found.views)
    store = feature_store()
    with _alone(store):
        planned, objects, unknown = _plan(domain, store, delete)
        if not delete:
            planned = replace(planned, changes=tuple(each for each in planned.changes if each.action != "removed"))
            unknown = []
        planned.check(approve=approve)
        if planned.changes:
            _apply(domain, store, objects, unknown)
    return planned


def _apply(domain: str, store: Any, objects: list[Any], unknown: list[Any]) -> None:
    # a refresh between two objects would drop what was changed of the copy in memory so far
    store.registry.cached_registry_proto_ttl = timedelta(0)
    try:
        store.apply(objects, objects_to_delete=unknown, partial=not unknown)
    except AdinError:
        raise
    except Exception as error:
        raise ConfigError(f"Feast refused the definitions of {domain}: {error}.") from error


def record_interval(view: str, window: Window) -> None:
    """Record in Feast's registry that a window of a view is online; overlapping intervals become one.

    :raises NotFoundError: the view was never applied.
    """
    from feast.errors import FeatureViewNotFoundException

    store = feature_store()
    with _alone(store):
        try:
            _record(store, view, window)
        except FeatureViewNotFoundException:
            raise NotFoundError(f"Feast's registry has no view {view}.", "Run `adin features apply` first.") from None


def _record(store: Any, view: str, window: Window) -> None:
    registry, project = store.registry, store.project
    found = registry.get_feature_view(view, project, allow_cache=False)
    registry.apply_materialization(found, project, window.start, window.end)
    found = registry.get_feature_view(view, project, allow_cache=False)
    spans = joined(found.materialization_intervals)
    if spans != sorted(found.materialization_intervals):
        found.materialization_intervals = spans
        registry.apply_feature_view(found, project)


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
        found[view] = [Window(start, end) for start, end in joined(spans)]
    return found


def registered() -> list[Any]:
    """Return the objects in the registry: entities, sources, views, services."""
    return _registered(feature_store())


def _plan(domain: str, store: Any, delete: bool) -> tuple[Plan, list[Any], list[Any]]:
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
    after = registered | {(_kind(each), each.name): each for each in objects}
    gone = unknown if delete else []
    if delete:
        after = {key: each for key, each in after.items() if key in known}
    ordered = tuple(sorted(changes, key=lambda change: (change.kind, change.name)))
    return Plan(domain, ordered, *_lost(registered.values(), after.values(), gone)), objects, unknown


def _lost(before: Iterable[Any], after: Iterable[Any], gone: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a change takes away, and who needs it."""
    had, has = promises.promises(before), promises.promises(after)
    lost = promises.broken(had, has)
    told = [f"{name}: {what}" for name, what in sorted(lost.items())]
    for name, features in sorted(had.services.items()):
        left = sorted(features - has.services.get(name, set()) - set(lost))
        told += [f"feature service {name}: no longer {', '.join(left)}"] if left else []
    told += sorted(f"{_kind(each)} {each.name}: removed" for each in gone)
    return tuple(told), tuple(promises.needed(lost, has, set(had.services) - set(has.services)) if told else ())


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
    old, new = definition(before.to_proto()), definition(after.to_proto())
    return tuple(
        f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


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


def _offline(conn: Connection) -> dict[str, Any]:
    return _postgres(conn) if settings().offline_store == "postgres" else _spark()


#: Parameter of a connection to PostgreSQL -> option of Feast's store.
_POSTGRES = {
    "host": "host",
    "port": "port",
    "dbname": "database",
    "user": "user",
    "password": "password",
    "sslmode": "sslmode",
    "sslkey": "sslkey_path",
    "sslcert": "sslcert_path",
    "sslrootcert": "sslrootcert_path",
    "keepalives_idle": "keepalives_idle",
}


def _postgres(conn: Connection) -> dict[str, Any]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    from adin.features.offline_postgres import address

    try:
        given = conninfo_to_dict(address(conn))
    except (ProgrammingError, UnicodeDecodeError):  # their texts may hold the password
        raise ConfigError("extra.offline of the connection feast is no URL of PostgreSQL.") from None
    if unknown := sorted(given.keys() - _POSTGRES.keys()):
        raise ConfigError(
            f"extra.offline of the connection feast sets {', '.join(unknown)}, which Feast's PostgreSQL store cannot.",
            f"It knows {', '.join(_POSTGRES)}.",
        )
    options = {_POSTGRES[name]: value for name, value in given.items()}
    # empty is left to PostgreSQL's own defaults, as Feast would not
    empty = {"host": "", "user": "", "password": "", "database": "", "sslmode": "prefer"}
    return {"type": "adin.features.feast_offline_postgres.PostgresPointInTimeOfflineStore", **empty, **options}


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
