"""Who may see and change what. People come with Airflow's login, programs with that or with a token of AMVersion.

For a user of Airflow the rights on a model are those on its training DAG, so they are given in one place; for a token
they are the roles of its user. What is refused is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, oauth2_scheme, requires_access_view
from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials

from adin.airflow.web import stores
from adin.errors import RefusedError

if TYPE_CHECKING:
    from adin.models.access import Action

_TOKEN = "adin_"  # noqa: S105 - how every token begins


@dataclass(frozen=True)
class Caller:
    """Who asks.

    :param token: AMVersion's, of one who came with that; :param user: Airflow's, of all others.
    """

    name: str
    token: str = field(default="", repr=False)
    user: Any = None

    def may(self, action: Action, model: str) -> bool:
        """Tell whether somebody may do something with a model."""
        if self.token:
            return stores.access().may(self.token, action, model)
        method: Literal["GET", "POST"] = "GET" if action == "read" else "POST"
        details = DagDetails(id=f"train__{model}")
        manager = get_auth_manager()
        return bool(
            manager.is_authorized_dag(method=method, access_entity=DagAccessEntity.RUN, details=details, user=self.user)
        )

    def check(self, action: Action, model: str) -> None:
        """Answer 403, and record it, unless somebody may do something with a model."""
        if self.token:
            try:
                stores.access().authorise(self.token, action, model)
            except RefusedError as refusal:
                raise HTTPException(403, f"You may not {_verb(action)} {model}: {refusal}") from None
        elif not self.may(action, model):
            why = f"it needs {'GET' if action == 'read' else 'POST'} on the runs of train__{model}"
            stores.access().deny(self.name, action, model, why)
            raise HTTPException(403, f"You may not {_verb(action)} {model}: {why}.")


async def caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)],
    _: Annotated[str | None, Depends(oauth2_scheme)],
) -> Caller:
    """Return who asks; whoever is not signed in gets 401."""
    if bearer and bearer.credentials.startswith(_TOKEN):
        identity = await run_in_threadpool(lambda: stores.access().sign_in(bearer.credentials))
        return Caller(identity.user, bearer.credentials)
    user = await get_user(request, None, bearer)
    await run_in_threadpool(requires_access_view(AccessView.PLUGINS), request, user)
    return Caller(user.get_name(), user=user)


CallerDep = Annotated[Caller, Depends(caller)]


def allowed(action: Action) -> Callable[..., None]:
    """Return a dependency that lets a request for a model through, or answers 403."""

    def check(model: str, who: CallerDep) -> None:
        who.check(action, model)

    return check


def _verb(action: str) -> str:
    return "look at" if action == "read" else "change"
