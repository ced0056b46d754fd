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
    """Bring the registry to what a domain's folder says. Never deletes.

    :param domain: feature domain (templated).
    :returns: what was ``added`` and ``changed``, by kind.
    :raises ConfigError: a definition is wrong; names file and line, and the registry is as before.
    :raises ServiceError: the registry does not answer; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "domain")
    connections: ClassVar[tuple[str, ...] | None] = ("feast", "spark")

    def __init__(self, *, domain: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain

    def asked(self) -> dict[str, Any]:
        """Return the domain."""
        return {"domain": self.domain}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what apply would add and change."""
        from adin.features import store

        return dict(store.plan(self.domain).as_dict())

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the domain's definitions in the registry."""
        return [], [registry_address(self.domain)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Apply."""
        from adin.features import store

        plan = store.apply(self.domain)
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
    connections: ClassVar[tuple[str, ...] | None] = ("feast", "spark")

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
        return asdict(online.materialize(self.domain, self.view, window))
