"""Who may see and change what: rights on a model are those on its training DAG, so they are given in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import HTTPException

Method = Literal["GET", "POST"]


def may(method: Method, model: str, user: GetUserDep) -> bool:
    """Tell whether a user may look at a model (``GET``: its training's runs) or change it (``POST``: start them)."""
    details = DagDetails(id=f"train__{model}")
    return bool(
        get_auth_manager().is_authorized_dag(
            method=method, access_entity=DagAccessEntity.RUN, details=details, user=user
        )
    )


def allowed(method: Method) -> Callable[..., None]:
    """Return a dependency that lets a request for a model through, or answers 403."""

    def check(model: str, user: GetUserDep) -> None:
        if not may(method, model, user):
            verb = "look at" if method == "GET" else "change"
            raise HTTPException(403, f"You may not {verb} {model}: it needs {method} on the runs of train__{model}.")

    return check
