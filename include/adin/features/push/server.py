"""The push API: users' own rows into the online store, over HTTP. Runs in the Airflow environment.

A request passes who asks, the gate, the rate, the size; then a few threads work on those that are inside. Each leaves a
line in the audit log: written by its worker, or, where it got to none, counted among others alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import Counter, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from adin import logs
from adin.connections import connection
from adin.errors import (
    AdinError,
    BusyError,
    ConflictError,
    DataError,
    NotFoundError,
    OverloadError,
    RefusedError,
    SignInError,
    TooLargeError,
)
from adin.features import shards, wire
from adin.features.push import check
from adin.features.push.body import BodyError
from adin.features.push.limits import Gate, Rate
from adin.features.push.pusher import Pusher
from adin.features.push.refusals import Refusals
from adin.features.push.state import Answer, Asked, Counts, State
from adin.models import registry
from adin.models.access import VIEW, Access, Identity
from adin.settings import settings

log = logging.getLogger("adin.push")

_REQUESTS = Counter("adin_push_requests", "Push requests", ["view", "code"])
_ROWS = Counter("adin_push_rows", "Rows of push requests", ["view", "outcome"])
_SECONDS = Histogram("adin_push_seconds", "Time to answer one", ["view"])
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
#: Seconds after which a caller should try again when a server behind us is away.
_AWAY = 5
#: Seconds between two writings of refused requests into the audit log.
_REFUSALS = 10


#: In this order: the first that fits.
_STATUS: tuple[tuple[type[AdinError], int], ...] = (
    (SignInError, 401),
    (RefusedError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (BodyError, 400),
    (TooLargeError, 413),
    (DataError, 422),
    (OverloadError, 503),
    (BusyError, 429),
)
#: Connections answered at a time, those of health and metrics too; uvicorn turns away the rest.
_CONNECTIONS = 256


def application(pusher: Pusher, access: Access) -> FastAPI:
    """Return the service.

    :param access: whose tokens are asked for.
    """
    limits = settings()
    gate = Gate(limits.push_parallel + limits.push_waiting)
    requests, rows = Rate("requests", limits.push_requests), Rate("rows", limits.push_rate)
    workers = ThreadPoolExecutor(limits.push_parallel, thread_name_prefix="push")
    refusals = Refusals(pusher.state.refuse)

    def signed_in(request: Request) -> None:
        """Ask who is there; FastAPI runs this in a thread."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        name = request.path_params["view"]
        request.state.who = access.authorise(token if kind.lower() == "bearer" else "", "push", f"{VIEW}{name}")

    routes = APIRouter(prefix="/v1/views/{view}", dependencies=[Depends(signed_in)])

    @routes.post("/rows")
    async def push(view: str, request: Request) -> JSONResponse:
        who: Identity = request.state.who
        check.target(pusher.targets, view)
        began = time.perf_counter()
        with gate.entered():
            for rate in (requests, rows):
                rate.check(who.token)
            requests.use(who.token, 1)
            content = await _body(request)
            asked, kind, accept = _asked(request, who, view, content)
            request.state.worked = True  # from here on the worker writes down what becomes of it
            work = asyncio.get_running_loop().run_in_executor(
                workers, lambda: _pushed(pusher, refusals, asked, kind, content, accept)
            )
            answer, repeated = await work
            rows.use(who.token, 0 if repeated else answer.document["rows"])
        _SECONDS.labels(view).observe(time.perf_counter() - began)
        return _told(view, answer, repeated)

    @routes.get("/schema")
    async def schema(view: str) -> dict[str, Any]:
        return check.schema(check.target(pusher.targets, view))

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        again = [
            _again(pusher.state.purge, 600, "old answers are kept a while longer"),
            _again(lambda: _recheck(pusher), 1, "pushed rows are compared later"),
            _again(refusals.flush, _REFUSALS, "refused requests are written into the audit log later"),
        ]
        if any(target.offline for target in pusher.targets.values()):
            with contextlib.suppress(AdinError):
                await asyncio.to_thread(pusher.state.land_all_again)
            again.append(_again(pusher.land, settings().push_land_seconds, "pushed rows are landed later"))
        chores = [asyncio.create_task(each) for each in again]
        yield
        for chore in chores:
            chore.cancel()
        workers.shutdown()
        with contextlib.suppress(AdinError):
            pusher.recheck(everything=True)
        with contextlib.suppress(AdinError):
            await asyncio.to_thread(refusals.flush)

    # what the API is stands in docs/push.md; FastAPI's own pages would ask nobody who is there
    made = FastAPI(title="Adin push", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    made.state.refusals = refusals
    made.include_router(routes)
    made.add_api_route("/health/live", lambda: {"status": "ok"})
    made.add_api_route("/health/ready", lambda: _ready(pusher.state))
    made.add_api_route("/metrics", lambda: PlainTextResponse(generate_latest()))
    made.add_exception_handler(AdinError, _failed)
    return made


def _pushed(
    pusher: Pusher, refusals: Refusals, asked: Asked, kind: str, content: bytes, accept: bool
) -> tuple[Answer, bool]:
    """Work on a request whose turn has come, and write down also that it failed."""
    try:
        if (datetime.now(UTC) - asked.received).total_seconds() > settings().push_redis_seconds:
            raise OverloadError("The requests before this one took too long.", after=_AWAY)
        return pusher.push(asked, kind, content, accept=accept)
    except Exception as error:
        status = _status(error)
        try:
            pusher.state.finish(asked, Answer(status, {}), Counts())
        except AdinError:
            refusals.add(asked.who, asked.token, asked.view, status)
        raise


def _status(error: Exception) -> int:
    """Return the HTTP status of an error; a mistake in our own configuration is nothing the caller could mend."""
    other = 503 if isinstance(error, AdinError) else 500
    return next((code for kind, code in _STATUS if isinstance(error, kind)), other)


def _asked(request: Request, who: Identity, view: str, content: bytes) -> tuple[Asked, str, bool]:
    """Return the request, its content type, and whether rows may be kept while Redis is away."""
    kind = request.headers.get("content-type", "")
    accept = "respond-async" in request.headers.get("prefer", "").lower()
    key = request.headers.get("idempotency-key", "")
    if key and not _KEY.fullmatch(key):
        raise BodyError("The Idempotency-Key has more than 200 characters, or others than plain ones.")
    digest = hashlib.sha256(f"{view}\0{kind}\0".encode() + content).hexdigest() if key else ""
    return Asked(uuid4().hex, who.user, who.token, view, datetime.now(UTC), key, digest), kind, accept


async def _body(request: Request) -> bytes:
    """Return the body; it is not read further than it may be long.

    :raises TooLargeError: it is longer. :raises BodyError: it does not arrive in time.
    """
    most = settings().push_bytes
    large = TooLargeError(f"The body has more than {most} bytes.", "Send fewer rows at a time.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BodyError("Compressed bodies are not taken.", "Send it as it is.")
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > most:
        raise large
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings().push_body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise large
                parts.append(part)
    except TimeoutError:
        raise BodyError("The body did not arrive in time.", "Send it faster, or fewer rows at a time.") from None
    except ClientDisconnect:
        raise BodyError("The caller went away before the end of the body.") from None
    return b"".join(parts)


def _told(view: str, answer: Answer, repeated: bool) -> JSONResponse:
    counted = answer.document
    _REQUESTS.labels(view, answer.status).inc()
    if not repeated:
        for outcome in ("written", "unchanged", "waiting"):
            _ROWS.labels(view, outcome).inc(counted[outcome])
        refused = len({each["row"] for each in counted["refused"]})
        _ROWS.labels(view, "refused").inc(refused)
        if refused:
            told = {"happened": "push_rejected", "request_id": counted["request"], "status": answer.status}
            log.warning("%d rows of %s refused", refused, view, extra=told)
    headers = {"X-Request-Id": counted["request"]} | ({"Idempotency-Replayed": "true"} if repeated else {})
    return JSONResponse(counted, answer.status, headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Answer an error in one line."""
    status = _status(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.after)
    elif status in (409, 503):
        headers["Retry-After"] = str(1 if status == 409 else _AWAY)
    if status not in (401, 403):  # those are logged where they are refused
        log.warning("%s", error, extra={"happened": "push_rejected", "status": status})
    _REQUESTS.labels("", status).inc()
    _count(request, error, status)
    text = str(error) if status != 503 or isinstance(error, BusyError) else "A server behind this one does not answer."
    return JSONResponse({"error": check.plain(text)}, status, headers)


def _count(request: Request, error: Exception, status: int) -> None:
    """Count a refused request for rows for the audit log, unless a worker wrote it down."""
    if request.method != "POST" or getattr(request.state, "worked", False):
        return
    who, token = "", ""
    if isinstance(error, RefusedError):
        who, token = error.user, error.token
    elif known := getattr(request.state, "who", None):
        who, token = known.user, known.token
    request.app.state.refusals.add(who, token, request.path_params["view"], status)


def _ready(state: State) -> JSONResponse:
    """Tell whether Redis and the database answer."""
    try:
        state.ping()
        with shards.Shards(timeout=settings().push_redis_seconds) as servers:
            for server in servers.primaries():
                server.exchange(wire.command(b"PING"), 1)
    except AdinError as error:
        log.warning("not ready: %s", error)
        return JSONResponse({"status": "away"}, 503, {"Retry-After": str(_AWAY)})
    return JSONResponse({"status": "ok"})


async def _again(chore: Callable[[], int | None], seconds: float, late: str) -> None:
    """Do a chore again and again, at once while it says that it did something; where it fails, next time.

    :param late: what is told then.
    """
    while True:
        try:
            while await asyncio.to_thread(chore):
                pass
        except AdinError as error:
            log.warning("%s: %s", late, error)
        except Exception:  # a chore that ended would be missed by nobody
            log.exception("%s", late)
        await asyncio.sleep(seconds)


def _recheck(pusher: Pusher) -> None:
    """Compare pushed rows once more."""
    for view, rows in pusher.recheck().items():
        _ROWS.labels(view, "rewritten").inc(rows)


def main() -> None:
    """Serve on the address of the connection ``push``."""
    import uvicorn

    logs.set_up("push")
    # a thread back from Redis or the database waits for one that computes: by default 5 ms, five times a request
    sys.setswitchinterval(0.0005)
    conn = connection("push")
    service = application(Pusher(State(conn)), Access(registry().store))
    uvicorn.run(
        service,
        host=conn.host,
        port=conn.port or 8081,
        log_config=None,
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()
