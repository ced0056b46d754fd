"""Feast: definitions into the registry, values into the online store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from adin.window import run_window

from operators.external_run import WorkOperator


class FeastApplyOperator(WorkOperator):
    """Bring the registry to what a domain's folder says. Never deletes.

    :param domain: feature domain (templated).
    :returns: what was added and changed.
    """

    template_fields: Sequence[str] = ("domain",)
    connections: ClassVar[tuple[str, ...]] = ("feast", "spark")

    def __init__(self, *, domain: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Apply."""
        from adin.features import store

        plan = store.apply(self.domain)
        self.log.info("%s", plan)
        return dict(plan.as_dict())


class FeastMaterializeOperator(WorkOperator):
    """Write what changed in the run's window from a view's Hive partitions to the online store.

    Newer values win whatever the order of runs, so a second run writes nothing.

    :param domain: feature domain (templated).
    :param view: feature view (templated).
    :returns: rows read, written and skipped.
    """

    template_fields: Sequence[str] = ("domain", "view")
    connections: ClassVar[tuple[str, ...]] = ("feast", "spark")

    def __init__(self, *, domain: str, view: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Write."""
        from adin.features import online

        return asdict(online.materialize(self.domain, self.view, run_window(context)))
