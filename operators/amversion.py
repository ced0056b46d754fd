"""Model versions in AMVersion's log: promote one, go back to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.connections import connection
from airflow.sdk import BaseOperatorLink
from airflow.sdk import conf as airflow_settings

from operators.external_run import Address, JobLink, WorkOperator
from operators.kfp import KfpRunOperator


class ModelLink(BaseOperatorLink):
    """The button on a task's page that leads to its model's page."""

    name = "Model"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the model's page in the Airflow UI."""
        base = airflow_settings.get("api", "base_url", fallback="/") or "/"
        return f"{base.rstrip('/')}/adin/models/{operator.model}"


class AmversionPromoteOperator(WorkOperator):
    """Make a validated version of a model its champion: one entry of its log, written once under the run key.

    What is under load follows the log by :class:`operators.kserve.KserveDeployOperator`. A version that is champion
    already stays so, and nothing is written.

    :param model: the model (templated).
    :param version: number of the version, or its alias (templated).
    :param reason: why; stands in the log (templated).
    :param against: number of the champion it was compared with: another by now means that the comparison is void.
        Default empty: whichever is champion when the task runs (templated).
    :param evidence: facts the decision rests on, for the log. Default none (templated).
    :param automatic: heed the mode of continuous training: nothing is promoted unless it is ``auto_deploy``. False for
        what a person has decided. Default True.
    :returns: ``model``, ``version``, ``former`` champion, ``entry`` of the log, ``changed``.
    :raises ConflictError: the champion is another than ``against``; compare with that one.
    :raises RefusedError: the model is frozen, its mode forbids it, or the version was never found good enough.
    :raises NotFoundError: there is no such model or version.
    :raises ServiceError: the registry does not answer; the next try finds its entry.
    """

    template_fields: Sequence[str] = (
        *WorkOperator.template_fields, "model", "version", "reason", "against", "evidence",
    )  # fmt: skip
    operator_extra_links = (ModelLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("amversion", "s3")

    def __init__(
        self,
        *,
        model: str,
        version: str | int,
        reason: str,
        against: str | int = "",
        evidence: dict[str, Any] | None = None,
        automatic: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.reason = reason
        self.against = against
        self.evidence = evidence
        self.automatic = automatic

    def asked(self) -> dict[str, Any]:
        """Return model and version."""
        return {"model": self.model, "version": str(self.version)}

    def plan(self, key: str) -> dict[str, Any]:
        """Return which version would take whose place."""
        from adin.models import registry

        models = registry()
        _, number = models.resolve(f"{self.model}:{self.version}")
        now = models.state(self.model)
        return {
            "model": self.model,
            "version": number,
            "state": now.versions[number],
            "champion": now.champion,
            "frozen": now.frozen,
        }

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the version, and the model whose champion it becomes."""
        conn = connection("amversion")
        place = f"amversion://{conn.host}:{conn.port}"
        return [(place, f"{self.model}/{self.version}")], [(place, self.model)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Promote, or find the entry."""
        from adin.models import registry

        models = registry()
        _, number = models.resolve(f"{self.model}:{self.version}")
        now = models.state(self.model)
        mine = [e for e in models.log(self.model) if (e.event, e.run_key, e.version) == ("promote", key, number)]
        if now.champion == number and not mine:
            return self._told(number, now.previous, now.seq, changed=False)
        against = int(self.against) if str(self.against) else mine[-1].evidence["against"] if mine else now.champion
        entry = models.promote(
            self.model,
            number,
            against=against,
            actor=getattr(context.get("dag_run"), "triggering_user_name", None) or "airflow",
            reason=self.reason,
            evidence=self.evidence,
            run_key=key,
            automatic=self.automatic,
        )
        return self._told(number, entry.evidence["against"], entry.seq, changed=True)

    def _told(self, number: int, former: int | None, entry: int, *, changed: bool) -> dict[str, Any]:
        return {"model": self.model, "version": number, "former": former, "entry": entry, "changed": changed}


class AmversionRollbackOperator(KfpRunOperator):
    """Bring an earlier version of a model back, by the Kubeflow pipeline ``rollback``.

    The pipeline stops training, pins the version, loads it beside the one that answers, swaps, asks it, and lets
    training go on without deploying. ``plan_only`` says what would change.

    :param model: the model (templated).
    :param target: version number, a time (ISO 8601), or ``previous``. Default ``previous`` (templated).
    :param reason: why; stands in the log (templated).
    :param by: who asked. Default ``airflow`` (templated).
    :param poll_interval: seconds between two looks at the run. Default 0.5.
    :param timeout: give up after this many seconds; the run is terminated. Default 600.
    :param deferrable: free the worker while waiting. Default Airflow's ``[operators] default_deferrable``.
    :returns: id of the Kubeflow run.
    :raises RefusedError: only from a plan: the target cannot be loaded; says why.
    :raises RunFailedError: the run failed, was cancelled, or vanished; a swap that failed was undone.
    :raises ServiceError: Kubeflow does not answer; the next try finds the run again.
    """

    template_fields: Sequence[str] = (*KfpRunOperator.template_fields, "model", "target", "reason", "by")
    operator_extra_links = (JobLink(), ModelLink())
    connections: ClassVar[tuple[str, ...] | None] = ("amversion", "s3", "kserve", "kfp")

    def __init__(
        self,
        *,
        model: str,
        reason: str,
        target: str = "previous",
        by: str = "airflow",
        poll_interval: float = 0.5,
        timeout: float = 600,
        **kwargs: Any,
    ) -> None:
        arguments = {"model": model, "target": target, "reason": reason, "by": by}
        given = {"poll_interval": poll_interval, "timeout": timeout, **kwargs}
        super().__init__(pipeline="rollback", arguments=arguments, **given)
        self.model = model
        self.target = target
        self.reason = reason
        self.by = by

    def plan(self, key: str) -> dict[str, Any]:
        """Return what the rollback would change."""
        from adin import control

        return {"run_key": key} | control.plan(self.model, self.target).check().as_dict()

    def trigger_arguments(self) -> dict[str, Any]:
        """Return what asking for the state needs."""
        return {"model": self.model, "reason": self.reason}
