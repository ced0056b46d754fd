"""A DAG in place of one whose files are wrong: the fault is seen where the DAG is looked for, all others live on."""

from __future__ import annotations

import logging
import re
from typing import Any

from airflow.sdk import DAG, BaseOperator

from adin.airflow.policies import DEFAULT_ARGS
from adin.errors import ConfigError

log = logging.getLogger(__name__)


class _Fault(BaseOperator):
    def __init__(self, *, fault: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    def execute(self, context: Any) -> None:
        raise ConfigError(self.fault)


def broken(dag_id: str, fault: str) -> None:
    """Declare a DAG that says what is wrong.

    :param dag_id: id of the DAG that could not be made; what an id cannot hold becomes ``_``.
    :param fault: file, place and remedy.
    """
    dag_id = re.sub(r"[^\w.-]", "_", dag_id, flags=re.ASCII)[:200]
    fault = fault or "It cannot be read; see the DAG processor's log."
    log.error("%s is broken: %s", dag_id, fault)
    doc = f"### What it does\nNothing.\n\n### What it writes\nNothing.\n\n### When it fails\n{fault}"

    with DAG(dag_id, schedule=None, default_args=DEFAULT_ARGS, tags=["broken"], doc_md=doc):
        _Fault(task_id="mend", fault=fault, doc_md=f"If it fails: {fault}")
