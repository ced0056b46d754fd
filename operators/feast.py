"""Feast: definitions into the registry, values into the online store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from adin.connections import connection
from adin.window import Window, run_window

from operators.external_run import Address, WorkOperator


def registry_address(name: str) -> Address:
    """Return a name in Feast's registry as OpenLineage has it."""
    conn = connection("feast")
    return f"feast://{conn.host}:{conn.port}", name


class FeastApplyOperator(WorkOperator):
    """Bring the registry to what a domain's folder says.

    :param domain: feature domain (templated).
    :param delete: also remove what no domain has any more (templated). Default False.
    :param approve: take away what the plan calls destructive (templated). Default False.
    :returns: what was ``added`` and ``changed``, by kind.
    :raises RefusedError: it was not approved, or a model under load or a problem needs it.
    :raises ConfigError: a definition is wrong; names file and line, and the registry is as before.
    :raises ServiceError: the registry does not answer; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "domain", "delete", "approve")
    connections: ClassVar[tuple[str, ...] | None] = ("feast", "spark", "s3", "amversion")

    def __init__(self, *, domain: str, delete: bool | str = False, approve: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.delete = delete
        self.approve = approve

    def asked(self) -> dict[str, Any]:
        """Return the domain, and what may be taken away."""
        return {"domain": self.domain, "delete": _true(self.delete), "approve": _true(self.approve)}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what apply would add and change."""
        from adin.features import store

        return dict(store.plan(self.domain, delete=_true(self.delete)).as_dict())

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the domain's definitions in the registry."""
        return [], [registry_address(self.domain)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Apply."""
        from adin.features import store

        plan = store.apply(self.domain, delete=_true(self.delete), approve=_true(self.approve))
        self.log.info("%s", plan)
        return dict(plan.as_dict())


class FeastMaterializeOperator(WorkOperator):
    """Write what changed in a window from a view's Hive partitions to the online store.

    Newer values win whatever the order of runs, so a second run writes nothing.

    :param domain: feature domain (templated).
    :param view: feature view (templated).
    :param window: ``start/end``, UTC. Default the run's own (templated).
    :returns: days and rows read, entities found and written.
    :raises DataError: the window has no published partition.
    :raises ServiceError: HDFS, the metastore, the registry or Redis do not answer; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "domain", "view", "window")
    connections: ClassVar[tuple[str, ...] | None] = ("feast", "spark", "s3")

    def __init__(self, *, domain: str, view: str, window: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view
        self.window = window

    def asked(self) -> dict[str, Any]:
        """Return view and window."""
        return {"domain": self.domain, "view": self.view, "window": self.window}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the view's Hive table and its values in Redis."""
        from adin.features import repo

        hive, redis = connection("spark"), connection("feast")
        table = repo.domain(self.domain).view(self.view).table
        return [(str(hive.extra["metastore"]), table)], [(f"redis://{redis.host}:{redis.port}", self.view)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Write."""
        from adin.features import online

        window = Window.from_text(self.window) if self.window else run_window(context)
        report = online.materialize(
            self.domain,
            self.view,
            window,
            tell=lambda progress: self.log.info("%s: %s", self.view, progress),
            key=key,
        )
        return asdict(report)


def _true(value: bool | str) -> bool:
    """Read a flag that may have been a template."""
    return str(value).lower() == "true"
