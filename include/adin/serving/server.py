"""The model server: KServe's Python server over AMVersion's champions. Runs in the ML environment.

A version is loaded whole in a thread beside the one that answers, then takes its place in one step: no request fails.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import kserve
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from prometheus_client import Counter, Gauge, Histogram

from adin.connections import connection
from adin.errors import AdinError, ConfigError, DataError, NotFoundError, RefusedError
from adin.models import registry
from adin.serving import predictor
from adin.serving.predictor import Predictor

log = logging.getLogger("adin.serving")

_REQUESTS = Counter("adin_requests", "Requests for predictions", ["model", "version", "code"])
_SECONDS = Histogram("adin_request_seconds", "Time to answer one", ["model", "version"])
_SERVED = Gauge("adin_served_version", "Version that answers", ["model"])
_STATUS = {DataError: 422, NotFoundError: 404, RefusedError: 409, ConfigError: 400}
_OPEN = {"/", "/v2/health/live", "/v2/health/ready", "/metrics"}


class AdinModel(kserve.Model):
    """A version under KServe's protocols: V1, and Open Inference with one tensor per request value."""

    def __init__(self, made: Predictor) -> None:
        super().__init__(made.spec.name)
        self.made = made
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer one request of either protocol."""
        if isinstance(payload, dict):
            return self.made.predict(payload["instances"])
        columns = {tensor.name: _plain(tensor.data) for tensor in payload.inputs}
        rows = {len(values) for values in columns.values()}
        if len(rows) != 1:
            raise DataError("The input tensors have different lengths.", "Give one value per row in each.")
        answer = self.made.predict(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )
        output = kserve.InferOutput("predictions", [len(answer["predictions"])], "FP64", answer.pop("predictions"))
        told = {name: value for name, value in answer.items() if not isinstance(value, dict)}
        return kserve.InferResponse(
            payload.id, self.name, [output], model_version=str(answer["model_version"]), parameters=told
        )


def _plain(values: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


class Repository(kserve.ModelRepository):
    """Models by name; one version of each answers."""

    def __init__(self) -> None:
        super().__init__()
        self._loading: dict[str, asyncio.Lock] = {}

    async def load(self, name: str, number: int | None = None) -> bool:
        """Load a version, default the champion, beside the one that answers, then swap."""
        async with self._loading.setdefault(name, asyncio.Lock()):
            made = await asyncio.to_thread(predictor.load, name, number)
            await asyncio.to_thread(made.predict, [made.spec.example])  # the first prediction is slow: not a user's
            self.update(AdinModel(made))
            _SERVED.labels(name).set(made.version.number)
            log.info("version %s of %s answers from now on", made.version.number, name)
        return True

    async def load_champions(self) -> None:
        """Load the champion of every model, again and again until the registry has answered."""
        while True:
            try:
                models = await asyncio.to_thread(_champions)
                break
            except AdinError as error:
                log.warning("the registry is not there yet: %s", error)
                await asyncio.sleep(2)
        for name in models:
            try:
                await self.load(name)
            except Exception:
                log.exception("the champion of %s cannot be loaded", name)


def _champions() -> list[str]:
    models = registry()
    return [name for name in models.models() if models.state(name).champion]


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
        if path not in _OPEN and not hmac.compare_digest(given, self.expected):
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
            return None if found is None else int(found)
        except (ValueError, AttributeError, TypeError):
            raise ConfigError("The body is no JSON object with parameters.version, a whole number.") from None

    @application.post("/v2/repository/models/{name}/load")
    async def load(name: str, request: Request) -> dict[str, Any]:
        await models.load(name, await number(request))
        return await status(name)

    @application.post("/v2/repository/models/{name}/check")
    async def check(name: str, request: Request) -> dict[str, Any]:
        made = await asyncio.to_thread(predictor.load, name, await number(request))
        await asyncio.to_thread(made.predict, [made.spec.example])
        return {"name": name, "version": made.version.number, "loads": True}

    @application.get("/v2/repository/models/{name}")
    async def status(name: str) -> dict[str, Any]:
        model = models.get_model(name)
        if model is None:
            raise NotFoundError(f"No version of {name} is under load.", f"Train it: DAG train__{name}.")
        version = model.made.version
        return {"name": name, "version": version.number, "dataset": version.manifest.dataset, "ready": model.ready}


async def _told(_: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 503)
    return JSONResponse({"error": str(error)}, status)


def main() -> None:
    """Serve on the address of the connection ``kserve``."""
    import uvicorn

    conn = connection("kserve")
    models = Repository()
    # one line a request costs two thirds of the throughput
    for name in ("kserve", "kserve.trace", "uvicorn.access", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    _routes(app, models)
    plane = DataPlane(model_registry=models)
    server = RESTServer("kserve.model_server:app", plane, ModelRepositoryExtension(models), conn.port or 8080)
    server.create_application()
    app.add_exception_handler(AdinError, _told)
    app.router.on_startup.append(lambda: _in_background(models.load_champions()))
    guarded = Guard(app, conn.password, models)
    # KServe's own server listens on every address
    uvicorn.run(guarded, host=conn.host, port=conn.port or 8080, log_config=None, access_log=False)


_TASKS: set[asyncio.Task[None]] = set()


def _in_background(work: Any) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)  # the loop itself holds tasks only weakly
    task.add_done_callback(_TASKS.discard)


if __name__ == "__main__":
    main()
