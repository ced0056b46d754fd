"""Feast: definitions into the registry, values into the online store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from adin.window import Window, run_window

from operators.external_run import WorkOperator


class FeastApplyOperator(WorkOperator):
    """Bring the registry to what a domain's folder says.

    :param domain: feature domain (templated).
    :param delete: also remove what no domain has any more (templated). Default False.
    :param approve: take away what the plan calls destructive (templated). Default False.
    :returns: what was added and changed.
    :raises RefusedError: it was not approved, or a model under load or a problem needs it.
    """

    template_fields: Sequence[str] = ("domain", "delete", "approve")
    connections: ClassVar[tuple[str, ...]] = ("feast", "spark", "s3", "amversion")

    def __init__(self, *, domain: str, delete: bool | str = False, approve: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.delete = delete
        self.approve = approve

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
    """

    template_fields: Sequence[str] = ("domain", "view", "window")
    connections: ClassVar[tuple[str, ...]] = ("feast", "spark", "s3")

    def __init__(self, *, domain: str, view: str, window: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.domain = domain
        self.view = view
        self.window = window

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Write."""
        from adin.features import online

        window = Window.from_text(self.window) if self.window else run_window(context)
        report = online.materialize(
            self.domain, self.view, window, tell=lambda progress: self.log.info("%s: %s", self.view, progress)
        )
        return asdict(report)


def _true(value: bool | str) -> bool:
    """Read a flag that may have been a template."""
    return str(value).lower() == "true"
