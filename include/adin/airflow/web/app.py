"""The web application below ``/adin``: pages for people, ``/adin/api/v1`` for programs; all of it asks who is there."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response

from adin import errors
from adin.airflow.web import api, drift, pages
from adin.airflow.web.access import caller

_STATUS: dict[type[errors.AdinError], int] = {
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.SignInError: 401,  # before the one it is a kind of
    errors.RefusedError: 409,
    errors.ConfigError: 422,
    errors.DataError: 422,
    errors.ServiceError: 503,
}

#: Nothing is fetched from elsewhere, no script runs, and no other site may frame the pages.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; frame-ancestors 'self'"


def create() -> FastAPI:
    """Return the application; every route, its schema included, asks who is there."""
    # FastAPI's own schema routes would be open to everybody
    app = FastAPI(
        title="Adin", version="1", dependencies=[Depends(caller)], docs_url=None, redoc_url=None, openapi_url=None
    )
    for router in (api.router, drift.api, pages.router, drift.router):
        app.include_router(router)
    app.add_exception_handler(errors.AdinError, _answer)

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    def schema() -> dict[str, Any]:
        return get_openapi(title=app.title, version=app.version, routes=[*api.router.routes, *drift.api.routes])

    @app.middleware("http")
    async def guard(request: Request, forward: Any) -> Response:
        answer: Response = await forward(request)
        answer.headers.setdefault("Content-Security-Policy", _POLICY)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return app


def _answer(request: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    if "/api/" in request.url.path:
        return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)
    return pages.trouble(request, status, str(error))
