"""The model server: KServe's Python server over AMVersion's champions. Runs in the ML environment.

A version is loaded whole in a thread beside the one that answers, then takes its place in one step: no request fails.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import kserve
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from prometheus_client import Counter, Gauge, Histogram

from adin import logs
from adin.connections import connection
from adin.errors import AdinError, ConfigError, DataError, NotFoundError, RefusedError, ServiceError
from adin.models import registry
from adin.serving import predictor, watch
from adin.serving.predictor import Predictor

log = logging.getLogger("adin.serving")

_REQUESTS = Counter("adin_requests", "Requests for predictions", ["model", "version", "code"])
_SECONDS = Histogram("adin_request_seconds", "Time to answer one", ["model", "version"])
_SERVED = Gauge("adin_served_version", "Version that answers", ["model"])
_STATUS: dict[type[Exception], int] = {
    DataError: 422,
    NotFoundError: 404,
    RefusedError: 409,
    ConfigError: 400,
    InvalidInput: 400,
    RequestValidationError: 400,
    ModelNotFound: 404,
    ModelNotReady: 503,
    NotImplementedError: 501,
}
_OPEN = re.compile(r"/|/metrics|/v2/health/(live|ready)|/v2/models/[^/]+/ready")


class AdinModel(kserve.Model):
    """A version under KServe's protocols: V1, and Open Inference with one tensor per request value."""

    def __init__(self, made: Predictor) -> None:
        super().__init__(made.spec.name)
        self.made = made
        self.watchers = watch.watchers(made)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer one request of either protocol."""
        if isinstance(payload, kserve.InferRequest):
            answer = await asyncio.to_thread(self._answer, _rows(payload))
            return self._tensors(payload, answer)
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise ConfigError("The body must be an object with instances, a list that is not empty.")
        return await asyncio.to_thread(self._answer, instances)

    def _answer(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        answer = self.made.predict(instances)
        for watcher in self.watchers:
            watcher.see(instances, answer)
        return answer

    def _tensors(self, payload: Any, answer: dict[str, Any]) -> Any:
        output = kserve.InferOutput("predictions", [len(answer["predictions"])], "FP64", answer.pop("predictions"))
        # the protocol's parameters are plain values
        answer["features_at"] = json.dumps(answer["features_at"])
        number = str(answer["model_version"])
        return kserve.InferResponse(payload.id, self.name, [output], model_version=number, parameters=answer)


def _rows(payload: Any) -> list[dict[str, Any]]:
    columns = {tensor.name: [_plain(value) for value in tensor.data] for tensor in payload.inputs}
    if len({len(values) for values in columns.values()}) != 1:
        raise ConfigError("The inputs must be tensors of one length, one value a row in each.")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not rows:
        raise ConfigError("The inputs have no row.")
    return rows


def _plain(value: Any) -> Any:
    """Return a tensor's element as JSON would have it."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ConfigError("A tensor of text holds bytes that are not UTF-8.") from None
    return value.item() if hasattr(value, "item") else value


class Repository(kserve.ModelRepository):
    """Models by name; one version of each answers."""

    def __init__(self) -> None:
        super().__init__()
        self._loading: dict[str, asyncio.Lock] = {}

    async def load(self, name: str, number: int | None = None) -> bool:
        """Load a version, default the champion, beside the one that answers, then swap."""
        async with self._loading.setdefault(name, asyncio.Lock()):
            await self._swap(name, number)
        return True

    async def load_champions(self) -> None:
        """Load the champion of every model; while a service is down, again and again."""
        waiting: set[str] | None = None
        while waiting is None or waiting:
            try:
                waiting = await asyncio.to_thread(_champions) if waiting is None else waiting
                for name in sorted(waiting):
                    await self._load_champion(name)
                    waiting.discard(name)
            except ServiceError as error:
                log.warning("not all champions are loaded yet: %s", error)
                await asyncio.sleep(2)

    async def _load_champion(self, name: str) -> None:
        async with self._loading.setdefault(name, asyncio.Lock()):
            if self.get_model(name) is not None:
                return
            try:
                await self._swap(name, None)
            except ServiceError:
                raise
            except Exception:  # the others are loaded none the less
                log.exception("the champion of %s cannot be loaded", name)

    async def _swap(self, name: str, number: int | None) -> None:
        made = await asyncio.to_thread(predictor.load, name, number)
        before = self.get_model(name)
        self.update(AdinModel(made))
        for watcher in before.watchers if before else ():
            watcher.close()
        _SERVED.labels(name).set(made.version.number)
        fields = {
            "happened": "swap",
            "model": name,
            "version": made.version.number,
            "dataset": made.version.manifest.dataset,
            "run": made.version.manifest.kfp_run,
            "started_by": made.version.manifest.tags.get("started_by", ""),
        }
        log.info("version %s of %s answers from now on", made.version.number, name, extra=fields)


def _champions() -> set[str]:
    models = registry()
    return {name for name in models.models() if models.state(name).champion}


class Guard:
    """Ask every request who it is, and count the answers.

    :param token: bearer token that opens all routes; health and metrics are open.
    """

    def __init__(self, inner: Any, token: str, models: Repository) -> None:
        self.inner = inner
        self.expected = f"Bearer {token}".encode()
        self.models = models

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        path: str = scope["path"]
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not _OPEN.fullmatch(path) and not hmac.compare_digest(given, self.expected):
            await JSONResponse({"error": "Bearer token missing or wrong."}, 401)(scope, receive, send)
            return
        await self.inner(scope, receive, self._counted(path, send))

    def _counted(self, path: str, send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        name = _asked_model(path)
        if name is None:
            return send
        began = time.perf_counter()

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                model = self.models.get_model(name)
                known, version = (name, model.made.version.number) if model else ("unknown", 0)
                _REQUESTS.labels(known, version, message["status"]).inc()
                _SECONDS.labels(known, version).observe(time.perf_counter() - began)
            await send(message)

        return counted


def _asked_model(path: str) -> str | None:
    if path.startswith("/v1/models/") and path.endswith(":predict"):
        return path.removeprefix("/v1/models/").removesuffix(":predict")
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return path.removeprefix("/v2/models/").split("/")[0]
    return None


def _routes(application: FastAPI, models: Repository) -> None:
    """Add the routes by which versions are put under load; they stand before KServe's own."""

    async def number(request: Request) -> int | None:
        body = await request.body()
        if not body:
            return None
        try:
            found = (await request.json()).get("parameters", {}).get("version")
            if found is None or (isinstance(found, int) and not isinstance(found, bool)):
                return found
            raise TypeError(found)
        except (ValueError, AttributeError, TypeError):
            raise ConfigError("The body is no JSON object with parameters.version, a whole number.") from None

    @application.post("/v2/repository/models/{name}/load")
    async def load(name: str, request: Request) -> dict[str, Any]:
        await models.load(name, await number(request))
        return await status(name)

    @application.post("/v2/repository/models/{name}/check")
    async def check(name: str, request: Request) -> dict[str, Any]:
        return await asyncio.to_thread(predictor.check, name, await number(request))

    @application.get("/v2/repository/models/{name}")
    async def status(name: str) -> dict[str, Any]:
        model = models.get_model(name)
        if model is None:
            raise NotFoundError(f"No version of {name} is under load.", f"Train it: DAG train__{name}.")
        version = model.made.version
        return {"name": name, "version": version.number, "dataset": version.manifest.dataset, "ready": model.ready}


async def _told(_: Request, error: Exception) -> JSONResponse:
    """Answer an error we know in one line; KServe's own handlers log a stack trace for each mistake of a user."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 503)
    return JSONResponse({"error": str(error)}, status)


def _quiet() -> None:
    """Log what happens, not every request: a line for each costs two thirds of the throughput."""
    logs.set_up("kserve")
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # KServe answers with a class that FastAPI warns of at each use
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="feast")


def main() -> None:
    """Serve on the address of the connection ``kserve``."""
    import uvicorn

    conn = connection("kserve")
    if not conn.password:
        raise ConfigError("The connection kserve has no password.", "It is the token that every request must carry.")
    models = Repository()
    _quiet()
    _routes(app, models)
    plane = DataPlane(model_registry=models)
    server = RESTServer("kserve.model_server:app", plane, ModelRepositoryExtension(models), conn.port or 8080)
    server.create_application()
    for kind in (AdinError, *_STATUS):
        app.add_exception_handler(kind, _told)
    app.router.on_startup.append(lambda: _in_background(models.load_champions()))
    guarded = Guard(app, conn.password, models)
    # KServe's own server listens on every address
    uvicorn.run(
        guarded, host=conn.host, port=conn.port or 8080, log_config=None, access_log=False, timeout_graceful_shutdown=30
    )


_TASKS: set[asyncio.Task[None]] = set()


def _in_background(work: Any) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)  # the loop itself holds tasks only weakly
    task.add_done_callback(_TASKS.discard)


if __name__ == "__main__":
    main()
