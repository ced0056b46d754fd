"""A stand-in HTTP front over the real ClickHouse engine (chDB), for machines which cannot have the server itself.

It speaks as much of ClickHouse's HTTP interface as the ordinary clients need: statements run at the same time, each on
a connection of its own, and ``KILL QUERY`` ends a running one by the id its client gave. Not here: the native
protocol, clusters, users beyond one, sessions (``session_id`` is taken and forgotten), compressed answers. A real
server drops in by its connection.
"""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import logging
import os
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from adin import logs
from adin.stack.layout import HOST, home, port

log = logging.getLogger("adin.clickhouse")

_STATEMENTS = Counter("adin_clickhouse_statements", "Statements by the engine's error code, 0 for none", ["code"])
_SECONDS = Histogram("adin_clickhouse_statement_seconds", "Time to run one")
_RUNNING = Gauge("adin_clickhouse_running", "Statements that run")
_ROWS = Counter("adin_clickhouse_rows", "Rows read and written", ["way"])
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
#: The server's HTTP status by error code; 500 for all others.
_STATUS = {
    **dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 53, 62, 72, 117, 376), 400),  # cannot be parsed, wrong types
    **dict.fromkeys((192, 193, 516), 403),  # wrong user or password
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115), 404),  # unknown table, function, setting, ...
    **dict.fromkeys((48,), 501),  # not implemented
}
_INSERT = re.compile(rb"\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)[ \t]*;?[ \t]*(?:\r?\n|$)", re.IGNORECASE | re.DOTALL)
_OWN_ROWS = re.compile(rb"\b(SELECT|VALUES|WITH)\b", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_KILL = re.compile(r"\s*KILL\s+QUERY\b", re.IGNORECASE)
#: The setting that carries the client's query id; the engine gives its own.
_CLIENT_ID = "log_comment"


@dataclass(frozen=True)
class Statement:
    """One request, as the engine takes it.

    :param data: rows in ``format``, where the statement is an INSERT without rows of its own.
    :param settings: settings and, named ``param_*``, values of the statement's parameters.
    """

    text: str
    query_id: str
    database: str
    format: str
    settings: dict[str, str]
    data: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """What a statement printed, and counts of the rows and bytes that went through it."""

    content: bytes
    summary: dict[str, str]


class QueryError(Exception):
    """The engine, or this front, refuses a statement.

    :param code: ClickHouse's error code.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)

    @classmethod
    def of(cls, error: RuntimeError) -> QueryError:
        """Read the code from what chDB raises."""
        found = re.search(r"Code: (\d+)", str(error))
        return cls(int(found[1]), str(error)[found.start() :]) if found else cls(1002, str(error))


class Engine:
    """The chDB engine of this process, one a process.

    :param path: folder of the databases.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._open = self._connect()  # the engine lives as long as it has a connection

    def _connect(self) -> Any:
        from chdb.state.sqlitelike import Connection

        return Connection(self._path)

    def run(self, statement: Statement) -> Answer:
        """Run one statement; others run beside it.

        :raises QueryError: the engine refuses it, it was killed, or its id is in use.
        """
        with self._claim(statement.query_id):
            connection = self._connect()
            try:
                connection.query(f"USE `{statement.database}`")
                chosen = statement.settings | {_CLIENT_ID: statement.query_id}
                connection.query("SET " + ", ".join(f"{name} = {_text(value)}" for name, value in chosen.items()))
                if statement.data is not None:
                    return _insert(connection, statement)
                result = connection.query(_by_client_id(statement.text), statement.format)
                return Answer(bytes(result.bytes() or b""), _summary(result))
            except RuntimeError as error:
                raise QueryError.of(error) from None
            finally:
                connection.close()

    @contextmanager
    def _claim(self, query_id: str) -> Iterator[None]:
        with self._lock:
            if query_id in self._running:
                raise QueryError(216, f"Code: 216. DB::Exception: Query with id = {query_id} is already running.")
            self._running.add(query_id)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(query_id)


def _insert(connection: Any, statement: Statement) -> Answer:
    stream = connection.send_insert(statement.text, statement.format)
    try:
        if statement.data:
            stream.append(statement.data)
        result = stream.finish()
    except RuntimeError:
        stream.cancel()
        raise
    return Answer(b"", {"written_rows": str(result.rows_written), "written_bytes": str(result.bytes_written)})


def _by_client_id(text: str) -> str:
    return re.sub(r"\bquery_id\b", f"Settings['{_CLIENT_ID}']", text) if _KILL.match(text) else text


def _summary(result: Any) -> dict[str, str]:
    return {
        "read_rows": str(result.storage_rows_read()),
        "read_bytes": str(result.storage_bytes_read()),
        "written_rows": str(result.rows_written()),
        "written_bytes": str(result.bytes_written()),
        "result_rows": str(result.rows_read()),
        "elapsed_ns": str(int(result.elapsed() * 1e9)),
    }


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- HTTP ----------------------------------------------------------------------------------------------------------


def _zstd(body: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


def _lz4(body: bytes) -> bytes:
    import lz4.frame

    return bytes(lz4.frame.decompress(body))


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "lz4": _lz4,
    "zstd": _zstd,
}


async def _body(request: Request) -> bytes:
    encoding = request.headers.get("Content-Encoding", "").lower()
    if encoding not in _DECODERS or request.headers.get("Content-Type", "").startswith("multipart/"):
        raise QueryError(48, "Code: 48. DB::Exception: this front takes no multipart forms and no such encoding.")
    body = await request.body()
    try:
        return _DECODERS[encoding](body)
    except Exception as error:  # each library has errors of its own
        raise QueryError(354, f"Code: 354. DB::Exception: The body is no {encoding}: {error}.") from None


def read(params: dict[str, str], headers: dict[str, str], body: bytes) -> Statement:
    """Read a request: the statement may stand in the URL, the body, or both, and rows may follow it.

    :raises QueryError: there is no statement, or it is no text.
    """
    head = params.get("query", "").encode()
    whole = head + b"\n" + body if head and body else head or body
    if not whole.strip():
        raise QueryError(62, "Code: 62. DB::Exception: Empty query.")
    default = params.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
    make = partial(
        Statement,
        query_id=params.get("query_id") or str(uuid.uuid4()),
        database=(params.get("database") or headers.get("x-clickhouse-database") or "default").replace("`", ""),
        settings={name: value for name, value in params.items() if _is_setting(name)},
    )
    insert = _INSERT.match(whole)
    if insert and not _OWN_ROWS.search(insert[1]):
        return make(insert[1].decode(errors="replace"), format=insert[2].decode(), data=whole[insert.end() :])
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        raise QueryError(62, "Code: 62. DB::Exception: The statement is not UTF-8 text.") from None
    found = _FORMAT.search(text)
    return make(text, format=found[1] if found else default)


def _is_setting(name: str) -> bool:
    return name not in _NOT_SETTINGS and re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) is not None


def _allowed(request: Request) -> bool:
    user, password = request.headers.get("X-ClickHouse-User", ""), request.headers.get("X-ClickHouse-Key", "")
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(sent + "==").decode(errors="replace").partition(":")
        except ValueError:
            return False
    elif "user" in request.query_params:
        user, password = request.query_params["user"], request.query_params.get("password", "")
    expected = f"adin:{os.environ['ADIN_CLICKHOUSE_PASSWORD']}"
    return hmac.compare_digest(f"{user}:{password}".encode(), expected.encode())


async def _ping(_: Request) -> Response:
    return PlainTextResponse("Ok.\n")


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _query(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    query_id = ""
    try:
        if not _allowed(request):
            raise QueryError(516, "Code: 516. DB::Exception: Authentication failed: wrong user or password.")
        statement = read(dict(request.query_params), dict(request.headers), await _body(request))
        query_id = statement.query_id
        with _RUNNING.track_inprogress(), _SECONDS.time():
            answer = await run_in_threadpool(engine.run, statement)
    except QueryError as error:
        _STATEMENTS.labels(error.code).inc()
        log.warning("statement %s failed with code %s", query_id, error.code)
        headers = {"X-ClickHouse-Exception-Code": str(error.code), "X-ClickHouse-Query-Id": query_id}
        return PlainTextResponse(f"{error}\n", _STATUS.get(error.code, 500), headers=headers)
    _STATEMENTS.labels(0).inc()
    for way in ("read", "written"):
        _ROWS.labels(way).inc(int(answer.summary.get(f"{way}_rows", 0)))
    headers = {
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Format": statement.format,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "adin-clickhouse-front",
        "X-ClickHouse-Summary": json.dumps(answer.summary),
    }
    return Response(answer.content, media_type="application/octet-stream", headers=headers)


def application(path: str) -> Starlette:
    """Return the web application over the databases in a folder."""
    app = Starlette(
        routes=[Route("/ping", _ping), Route("/metrics", _metrics), Route("/", _query, methods=["GET", "POST"])]
    )
    app.state.engine = Engine(path)
    return app


def main() -> None:
    """Serve on the stack's port."""
    import uvicorn

    os.environ.setdefault("TZ", "UTC")
    logs.set_up("clickhouse")
    app = application(str(home("clickhouse")))
    uvicorn.run(app, host=HOST, port=port("clickhouse"), log_config=None, access_log=False, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
