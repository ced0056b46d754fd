"""The trigger forms: typed fields with titles and defaults that work, and the refusal of unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from adin.errors import ConfigError


def window_params(otherwise: str) -> dict[str, Param]:
    """Return the fields that name a window.

    :param otherwise: which window an empty form stands for.
    """
    kind = {"type": ["null", "string"], "format": "date-time", "section": "Window"}
    return {
        "window_start": Param(None, title="Start", description_md=f"First instant, UTC. Empty: {otherwise}.", **kind),
        "window_end": Param(None, title="End", description_md="First instant after it, UTC.", **kind),
    }


def check_conf(context: Mapping[str, Any]) -> None:
    """Refuse a run that was triggered with keys its DAG does not know; Airflow itself lets them pass.

    :raises ConfigError: names the unknown keys and the known ones.
    """
    known = set(context["dag"].params.keys())
    unknown = set(context["dag_run"].conf or {}) - known
    if unknown:
        raise ConfigError(
            f"Unknown keys in the run's configuration: {', '.join(sorted(unknown))}.",
            f"Known keys: {', '.join(sorted(known)) or 'none'}. Trigger a new run.",
        )
