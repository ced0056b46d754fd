"""HTTP: the routes of v2beta1, the token, and errors as grpc-gateway writes them."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError
from adin.stack.kfp import spec as specs
from adin.stack.kfp.attempt import tail
from adin.stack.kfp.catalog import Catalog
from adin.stack.kfp.query import listing
from adin.stack.kfp.runs import Runs
from adin.stack.kfp.schedule import Schedule
from adin.stack.kfp.store import Doc, Store

_LOG = logging.getLogger(__name__)
_ROOT = "/apis/v2beta1"
_OPEN = (f"{_ROOT}/healthz", "/metrics")
_GOING = Gauge("adin_kfp_runs", "Runs that wait or go", ["state"])
#: Error -> HTTP status and gRPC code.
_STATUS: tuple[tuple[type[AdinError], int, int], ...] = (
    (NotFoundError, 404, 5),
    (ConflictError, 409, 6),
    (ConfigError, 400, 3),
    (AdinError, 500, 13),
)
_CODES = {400: 3, 401: 16, 404: 5, 405: 12}
#: Fields of requests by what they must be.
_TEXTS = {
    "code_source_url",
    "cron",
    "description",
    "display_name",
    "end_time",
    "experiment_id",
    "mode",
    "name",
    "pipeline_id",
    "pipeline_version_id",
    "service_account",
    "start_time",
}
_OBJECTS = {
    "cron_schedule",
    "parameters",
    "periodic_schedule",
    "pipeline",
    "pipeline_spec",
    "pipeline_version",
    "pipeline_version_reference",
    "runtime_config",
    "tags",
    "trigger",
}

Answer = Callable[[Request], Awaitable[Any]]


def app(store: Store, runs: Runs, schedule: Schedule, token: str, **options: Any) -> Starlette:
    """Return the web application.

    :param token: what callers must send as ``Authorization: Bearer``; healthz and metrics alone are open.
    :param options: passed to Starlette.
    """
    api = _Api(store, runs, schedule)
    return Starlette(
        routes=[Route(path, _guarded(answer), methods=[method]) for method, path, answer in api.routes()],
        middleware=[Middleware(_Token, token=token)],
        exception_handlers={HTTPException: _http_error},
        **options,
    )


class _Api:
    def __init__(self, store: Store, runs: Runs, schedule: Schedule) -> None:
        self._store, self._runs, self._schedule = store, runs, schedule
        self._catalog = Catalog(store)

    def routes(self) -> list[tuple[str, str, Answer]]:
        """Return method, path and function; the more special path first."""
        version = "/pipelines/{pipeline}/versions"
        own: list[tuple[str, str, Answer]] = [
            ("GET", "/healthz", self.healthz),
            ("POST", "/pipelines/upload", self.upload),
            ("POST", "/pipelines/upload_version", self.upload_version),
            ("POST", "/pipelines/create", self.create_pipeline_and_version),
            ("POST", "/pipelines", self.create_pipeline),
            ("GET", "/pipelines", self.list_of("pipeline")),
            ("GET", "/pipelines/names/{name}", self.pipeline_named),
            ("GET", "/pipelines/{id}", self.get_of("pipeline")),
            ("DELETE", "/pipelines/{id}", self.delete_pipeline),
            ("POST", version, self.create_version),
            ("GET", version, self.list_of("version", pipeline_id="pipeline")),
            ("GET", version + "/{id}", self.get_version),
            ("DELETE", version + "/{id}", self.delete_version),
            ("POST", "/experiments", self.create_experiment),
            ("GET", "/experiments", self.list_of("experiment")),
            ("POST", "/experiments/{id}:archive", self.archive(self._catalog.archive_experiment, "ARCHIVED")),
            ("POST", "/experiments/{id}:unarchive", self.archive(self._catalog.archive_experiment, "AVAILABLE")),
            ("GET", "/experiments/{id}", self.get_of("experiment")),
            ("DELETE", "/experiments/{id}", self.delete_experiment),
            ("POST", "/runs", self.create_run),
            ("GET", "/runs", self.list_of("run", experiment_id="")),
            ("POST", "/runs/{id}:terminate", self.terminate_run),
            ("POST", "/runs/{id}:retry", self.retry_run),
            ("POST", "/runs/{id}:archive", self.archive(self._catalog.archive_run, "ARCHIVED")),
            ("POST", "/runs/{id}:unarchive", self.archive(self._catalog.archive_run, "AVAILABLE")),
            ("GET", "/runs/{id}/nodes/{step:path}/log", self.log),
            ("GET", "/runs/{id}", self.get_run),
            ("DELETE", "/runs/{id}", self.delete_run),
            ("POST", "/recurringruns", self.create_recurring),
            ("GET", "/recurringruns", self.list_of("recurring run", experiment_id="")),
            ("POST", "/recurringruns/{id}:enable", self.switch("ENABLE")),
            ("POST", "/recurringruns/{id}:disable", self.switch("DISABLE")),
            ("GET", "/recurringruns/{id}", self.get_of("recurring run")),
            ("DELETE", "/recurringruns/{id}", self.delete_recurring),
        ]
        return [(method, _ROOT + path, answer) for method, path, answer in own] + [
            # the one place where Kubeflow itself serves a step's log
            ("GET", "/apis/v1alpha1/runs/{id}/nodes/{step:path}/log", self.log),
            ("GET", "/metrics", self.metrics),
        ]

    async def healthz(self, _: Request) -> Doc:
        return {"multi_user": False, "pipeline_store": "database"}

    async def metrics(self, _: Request) -> Response:
        for state, count in (await run_in_threadpool(self._runs.going)).items():
            _GOING.labels(state).set(count)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    # -- any kind ------------------------------------------------------------------------------------------------

    def list_of(self, kind: str, **fixed: str) -> Answer:
        # fixed: field -> path parameter that holds its value; an empty name means the query parameter of the field
        # the one list that v2beta1 names in camel case
        plural = "recurringRuns" if kind == "recurring run" else kind.replace("version", "pipeline_version") + "s"

        async def answer(request: Request) -> Doc:
            query = dict(request.query_params)
            given = {
                field: request.path_params[name] if name else query.get(field, "") for field, name in fixed.items()
            }
            page = await run_in_threadpool(listing, self._store, kind, query, given)
            page[plural] = [self._view(kind, doc) for doc in page.pop("items")]
            return {key: value for key, value in page.items() if value}

        return answer

    def get_of(self, kind: str) -> Answer:
        async def answer(request: Request) -> Doc:
            return self._view(kind, self._store.get(kind, request.path_params["id"]))

        return answer

    def archive(self, change: Callable[[str, str], None], state: str) -> Answer:
        async def answer(request: Request) -> Doc:
            await run_in_threadpool(change, request.path_params["id"], state)
            return {}

        return answer

    # -- pipelines -----------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Doc:
        content = await _file(request)
        doc = await run_in_threadpool(self._catalog.upload, content, _query(request))
        return self._view("pipeline", doc)

    async def upload_version(self, request: Request) -> Doc:
        content, query = await _file(request), _query(request)
        pipeline = query.get("pipelineid", "")
        if not pipeline:
            raise ConfigError("The parameter pipelineid is missing.")
        doc = await run_in_threadpool(self._catalog.create_version, pipeline, specs.read(content), query)
        return self._view("version", doc)

    async def create_pipeline(self, request: Request) -> Doc:
        return self._view("pipeline", self._catalog.create_pipeline(await _body(request)))

    async def create_pipeline_and_version(self, request: Request) -> Doc:
        body = await _body(request)
        version = body.get("pipeline_version") or {}
        spec = specs.check(version.get("pipeline_spec"))
        with self._store.transaction():
            doc = self._catalog.create_pipeline(body.get("pipeline") or {})
            self._catalog.create_version(doc["id"], spec, {"name": doc["name"]} | version)
        return self._view("pipeline", doc)

    async def pipeline_named(self, request: Request) -> Doc:
        return self._view("pipeline", self._catalog.pipeline_named(request.path_params["name"]))

    async def delete_pipeline(self, request: Request) -> Doc:
        cascade = request.query_params.get("cascade", "").lower() == "true"
        self._catalog.delete_pipeline(request.path_params["id"], cascade=cascade)
        return {}

    async def create_version(self, request: Request) -> Doc:
        body = await _body(request)
        spec = specs.check(body.get("pipeline_spec"))
        return self._view("version", self._catalog.create_version(request.path_params["pipeline"], spec, body))

    async def get_version(self, request: Request) -> Doc:
        doc = self._catalog.version(request.path_params["pipeline"], request.path_params["id"])
        return self._view("version", doc)

    async def delete_version(self, request: Request) -> Doc:
        self._catalog.delete_version(request.path_params["pipeline"], request.path_params["id"])
        return {}

    # -- experiments ---------------------------------------------------------------------------------------------

    async def create_experiment(self, request: Request) -> Doc:
        return self._view("experiment", self._catalog.create_experiment(await _body(request)))

    async def delete_experiment(self, request: Request) -> Doc:
        self._store.delete("experiment", request.path_params["id"])
        return {}

    # -- runs ----------------------------------------------------------------------------------------------------

    async def create_run(self, request: Request) -> Doc:
        doc = await run_in_threadpool(self._runs.create, await _body(request))
        return self._view("run", doc)

    async def get_run(self, request: Request) -> Doc:
        doc = self._store.get("run", request.path_params["id"])
        details = await run_in_threadpool(self._runs.details, doc)
        extra = {"output_parameters": doc["_outputs"]} if doc.get("_outputs") else {}
        return self._view("run", doc) | {"run_details": {"task_details": details, **extra}}

    async def terminate_run(self, request: Request) -> Doc:
        await run_in_threadpool(self._runs.terminate, request.path_params["id"])
        return {}

    async def retry_run(self, request: Request) -> Doc:
        await run_in_threadpool(self._runs.retry, request.path_params["id"])
        return {}

    async def delete_run(self, request: Request) -> Doc:
        await run_in_threadpool(self._runs.delete, request.path_params["id"])
        return {}

    async def log(self, request: Request) -> Response:
        path = await run_in_threadpool(self._runs.log, request.path_params["id"], request.path_params["step"])
        size = request.query_params.get("tail_bytes", "")
        if size and not size.isdigit():
            raise ConfigError(f"tail_bytes must be a whole number, not {size!r}.")
        return PlainTextResponse(await run_in_threadpool(tail, path, int(size or 2**30)))

    # -- recurring runs ------------------------------------------------------------------------------------------

    async def create_recurring(self, request: Request) -> Doc:
        doc = await run_in_threadpool(self._schedule.create, await _body(request))
        return self._view("recurring run", doc)

    def switch(self, mode: str) -> Answer:
        async def answer(request: Request) -> Doc:
            await run_in_threadpool(self._schedule.switch, request.path_params["id"], mode)
            return {}

        return answer

    async def delete_recurring(self, request: Request) -> Doc:
        self._store.delete("recurring run", request.path_params["id"])
        return {}

    def _view(self, kind: str, doc: Doc) -> Doc:
        names = {
            "pipeline": "pipeline_id",
            "version": "pipeline_version_id",
            "experiment": "experiment_id",
            "run": "run_id",
            "recurring run": "recurring_run_id",
        }
        view = {key: value for key, value in doc.items() if not key.startswith("_") and key != "id"}
        view[names[kind]] = doc["id"]
        if kind == "version" or (kind == "run" and doc["_inline"]):
            view["pipeline_spec"] = self._store.spec(doc["_spec"])
        return view


class _Token:
    """Refuses callers that do not know the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                answer = _error(401, 16, "Unauthorised: send the token of connection kfp as `Authorization: Bearer`.")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _guarded(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            result = await answer(request)
        except AdinError as error:
            status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
            return _error(status, code, str(error))
        except HTTPException:
            raise
        except Exception as error:
            _LOG.exception("%s %s", request.method, request.url.path)
            return _error(500, 13, f"Local KFP failed: {type(error).__name__}. See its log.")
        return result if isinstance(result, Response) else JSONResponse(result)

    return endpoint


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, _CODES.get(error.status_code, 2), str(error.detail))


def _error(status: int, code: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message, "code": code, "message": message, "details": []}, status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body(), parse_constant=_refuse)
    except ValueError as error:
        raise ConfigError(f"The request's body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ConfigError("The request's body is not a JSON object.")
    _check_shape(body)
    return body


def _check_shape(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None:
            continue
        if name in _TEXTS and not isinstance(value, str):
            raise ConfigError(f"{name} must be text, not {value!r:.100}.")
        if name in _OBJECTS:
            if not isinstance(value, dict):
                raise ConfigError(f"{name} must be an object, not {value!r:.100}.")
            if name not in ("parameters", "pipeline_spec"):  # what is in these is the pipeline's own
                _check_shape(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


async def _file(request: Request) -> bytes:
    async with request.form() as form:
        file = form.get("uploadfile")
        if not isinstance(file, UploadFile):
            raise ConfigError("No file: send it as the multipart field uploadfile.")
        return await file.read()


def _query(request: Request) -> Mapping[str, Any]:
    query: dict[str, Any] = dict(request.query_params)
    if query.get("tags"):
        try:
            query["tags"] = json.loads(query["tags"])
        except ValueError as error:
            raise ConfigError("tags is not a JSON object.") from error
    return query
