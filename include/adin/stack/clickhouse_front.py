"""A small HTTP front over the real ClickHouse engine (chDB), for machines which cannot have the server itself.

It speaks as much of ClickHouse's HTTP interface as the ordinary clients need. Statements run one after the other: one
engine, one process. There is no native protocol, no cluster, no users beyond one, and a running statement cannot be
killed from outside; a real server drops in by its connection.
"""

from __future__ import annotations

import base64
import hmac
import logging
import os
import re
import tempfile
import threading
import uuid
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from adin.stack.layout import HOST, home, port

log = logging.getLogger("adin.clickhouse")

#: URL parameters which are not settings of the statement.
_NOT_SETTINGS = {
    "query",
    "query_id",
    "session_id",
    "session_timeout",
    "session_check",
    "database",
    "user",
    "password",
    "default_format",
    "compress",
    "decompress",
    "enable_http_compression",
    "client_protocol_version",
    "wait_end_of_query",
    "buffer_size",
    "quota_key",
    "role",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close",
}
_INSERT = re.compile(r"^\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class Engine:
    """The one chDB session of this process.

    :param path: folder of the databases.
    """

    def __init__(self, path: str) -> None:
        from chdb.session import Session

        self._session = Session(path)
        self._lock = threading.Lock()

    def run(self, statement: str, database: str, parameters: dict[str, str], data: bytes, default: str) -> bytes:
        """Run one statement and return what it prints."""
        with self._lock:
            self._session.query(f"USE `{database}`")
            for name, value in parameters.items():
                self._session.query(f"SET param_{name} = {_text(value)}")
            insert = _INSERT.match(statement)
            if insert and data:
                return self._insert(insert[1], insert[2], data)
            return bytes(self._session.query(statement, _format(statement, default)).bytes())

    def _insert(self, head: str, form: str, data: bytes) -> bytes:
        with tempfile.NamedTemporaryFile(suffix=f".{form}") as file:
            file.write(data)
            file.flush()
            self._session.query(f"{head} SELECT * FROM file('{file.name}', '{form}')")  # noqa: S608 - both made here
        return b""


def _format(statement: str, default: str) -> str:
    found = _FORMAT.search(statement)
    return found[1] if found else default


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _settings(params: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in params.items()
        if name not in _NOT_SETTINGS and not name.startswith("param_") and re.fullmatch(r"[a-z][a-z0-9_]*", name)
    }


def _with_settings(statement: str, params: dict[str, str]) -> str:
    """Append the settings of the URL where the grammar takes them."""
    chosen = _settings(params)
    if not chosen or not re.match(r"\s*(SELECT|WITH|INSERT|DESCRIBE|DESC)\b", statement, re.IGNORECASE):
        return statement
    clause = ", ".join(f"{name} = {_text(value)}" for name, value in chosen.items())
    form = _FORMAT.search(statement)
    if form:
        return f"{statement[: form.start()]} SETTINGS {clause} FORMAT {form[1]}"
    return f"{statement.rstrip().rstrip(';')} SETTINGS {clause}"


def _allowed(request: Request) -> bool:
    user, password = request.headers.get("X-ClickHouse-User", ""), request.headers.get("X-ClickHouse-Key", "")
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        user, _, password = base64.b64decode(sent).decode(errors="replace").partition(":")
    expected = f"adin:{os.environ['ADIN_CLICKHOUSE_PASSWORD']}"
    return hmac.compare_digest(f"{user}:{password}".encode(), expected.encode())


async def _ping(_: Request) -> Response:
    return PlainTextResponse("Ok.\n")


async def _query(request: Request) -> Response:
    if not _allowed(request):
        return _error(516, "Authentication failed", 403)
    params = dict(request.query_params)
    body = await request.body()
    statement = params.get("query", "")
    data = b""
    if statement and _INSERT.match(statement):
        data = body
    else:
        statement = f"{statement}\n{body.decode()}".strip()
    if not statement:
        return _error(62, "Empty query", 400)
    query_id = params.get("query_id") or str(uuid.uuid4())
    named = {name.removeprefix("param_"): value for name, value in params.items() if name.startswith("param_")}
    database = params.get("database") or request.headers.get("X-ClickHouse-Database") or "default"
    default = params.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated"
    statement = statement if data else _with_settings(statement, params)
    engine: Engine = request.app.state.engine
    try:
        answer = await run_in_threadpool(engine.run, statement, database.replace("`", ""), named, data, default)
    except RuntimeError as error:  # what chDB raises for every failed statement
        found = re.search(r"Code: (\d+)", str(error))
        log.warning("statement %s failed with code %s", query_id, found[1] if found else "?")
        return _error(int(found[1]) if found else 1002, str(error), 500)
    headers = {
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Format": _format(statement, default),
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "adin-clickhouse-front",
        "X-ClickHouse-Summary": "{}",
    }
    return Response(answer, media_type="application/octet-stream", headers=headers)


def _error(code: int, text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers={"X-ClickHouse-Exception-Code": str(code)})


def application(path: str) -> Starlette:
    """Return the web application over the databases in a folder."""
    routes = [Route("/ping", _ping), Route("/", _query, methods=["GET", "POST"])]
    app = Starlette(routes=routes)
    app.state.engine = Engine(path)
    return app


def main() -> Any:
    """Serve on the stack's port."""
    import uvicorn

    os.environ.setdefault("TZ", "UTC")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    uvicorn.run(application(str(home("clickhouse"))), host=HOST, port=port("clickhouse"), access_log=False)


if __name__ == "__main__":
    main()
