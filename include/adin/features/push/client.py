"""The push API from outside: the rows of a file, in requests as large as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pyarrow as pa

from adin.connections import Connection, connection
from adin.errors import (
    AdinError,
    ConfigError,
    ConflictError,
    DataError,
    NotFoundError,
    RefusedError,
    ServiceError,
    SignInError,
    TooLargeError,
    UnreachableError,
)
from adin.features.push.body import ARROW, CSV, JSON, as_text
from adin.settings import settings

_ERRORS: dict[int, type[AdinError]] = {
    400: DataError,
    401: SignInError,
    403: RefusedError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: DataError,
}
#: Answers after which the same request may be sent again, once the time they name has passed.
_LATER = (409, 429, 503)


@dataclass
class Report:
    """What became of the rows of a file.

    :param refused: per thing that is wrong: row (its place in the file, from 0), field and reason.
    :param dead_letters: requests of which rows wait for Redis.
    """

    view: str
    rows: int = 0
    written: int = 0
    unchanged: int = 0
    waiting: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)

    @property
    def refused_rows(self) -> list[int]:
        """Return the places of the rows that were refused."""
        return sorted({each["row"] for each in self.refused})

    def add(self, answer: dict[str, Any], start: int) -> None:
        """Count the answer of a request whose first row stands at a place of the file."""
        for name in ("rows", "written", "unchanged", "waiting"):
            setattr(self, name, getattr(self, name) + answer[name])
        self.refused += [{**each, "row": each["row"] + start} for each in answer["refused"]]
        if "dead_letter" in answer:
            self.dead_letters.append(answer["dead_letter"])


class Source(Protocol):
    """Rows of a file."""

    count: int

    def body(self, start: int, end: int) -> tuple[str, bytes]:
        """Return content type and body of some of the rows."""

    def rows(self, places: list[int]) -> list[Any]:
        """Return some of the rows as they stand in the file."""


class PushClient:
    """The push service.

    :param conn: default the connection ``push``: its password is the caller's token.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        import httpx

        self._conn = conn or connection("push")
        self._http = httpx.Client(
            base_url=self._conn.url,
            headers={"Authorization": f"Bearer {self._conn.password}"},
            timeout=httpx.Timeout(settings().read_timeout, connect=settings().connect_timeout),
        )

    def schema(self, view: str) -> dict[str, Any]:
        """Return what a row of a view must be, and the service's limits."""
        return dict(self._asked(lambda: self._http.get(f"/v1/views/{view}/schema")).json())

    def push(
        self, view: str, source: Source, *, keep: bool = False, progress: Callable[[str], None] = lambda _: None
    ) -> Report:
        """Push all rows of a file, those that are refused told in the report.

        :param keep: let the service keep rows while Redis does not answer.
        :raises ServiceError: it does not answer, or is busy for longer than ``settings().read_timeout`` seconds.
        """
        report = Report(view)
        size = int(self.schema(view)["limits"]["rows"])
        for start in range(0, source.count, size):
            end = min(start + size, source.count)
            for first, answer in self._pushed(view, source, start, end, keep):
                report.add(answer, first)
            if source.count > size:
                progress(f"{end} of {source.count} rows")
        return report

    def _pushed(
        self, view: str, source: Source, start: int, end: int, keep: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        kind, content = source.body(start, end)
        headers = {"Content-Type": kind, "Idempotency-Key": uuid4().hex}
        if keep:
            headers["Prefer"] = "respond-async"
        try:
            answer = self._asked(lambda: self._http.post(f"/v1/views/{view}/rows", content=content, headers=headers))
        except TooLargeError:
            if end - start == 1:
                raise
            half = (start + end) // 2
            yield from self._pushed(view, source, start, half, keep)
            yield from self._pushed(view, source, half, end, keep)
            return
        yield start, dict(answer.json())

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """Return an answer, asking again while the service is busy or the connection breaks."""
        import httpx

        end = time.monotonic() + settings().read_timeout
        while True:
            try:
                answer = ask()
            except httpx.TransportError as error:
                if time.monotonic() > end or isinstance(error, httpx.ConnectError):
                    told = f"The push service at {self._conn.url} does not answer: {error}."
                    raise UnreachableError(told, "Is it up?") from None
                continue
            wait = float(answer.headers.get("retry-after", 1))
            if answer.status_code in _LATER and time.monotonic() + wait < end:
                time.sleep(wait)
                continue
            if answer.is_success or (answer.status_code == 422 and "refused" in answer.json()):
                return answer
            kind = _ERRORS.get(answer.status_code, ServiceError)
            raise kind(f"Push service: {_text(answer)}")


def _text(answer: Any) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:300]}"


def source(path: Path) -> Source:
    """Return the rows of a .json, .parquet or .csv file.

    :raises ConfigError: it is no such file. :raises DataError: it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    readers: dict[str, Callable[[Path], Source]] = {".json": _JsonFile, ".parquet": _parquet, ".csv": _csv}
    if path.suffix not in readers:
        raise ConfigError(f"{path} is no {', '.join(readers)} file.", "Name one of these.")
    try:
        return readers[path.suffix](path)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


class _JsonFile:
    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_bytes())
        rows = found.get("rows") if isinstance(found, dict) else found
        if not isinstance(rows, list):
            raise ValueError('it holds neither a list of rows nor {"rows": [...]}')
        self._rows, self.count = rows, len(rows)

    def body(self, start: int, end: int) -> tuple[str, bytes]:
        return JSON, json.dumps({"rows": self._rows[start:end]}).encode()

    def rows(self, places: list[int]) -> list[Any]:
        return [self._rows[place] for place in places]


class _Table:
    def __init__(self, table: pa.Table, write: Callable[[pa.Table], tuple[str, bytes]]) -> None:
        self._table, self._write, self.count = table, write, table.num_rows

    def body(self, start: int, end: int) -> tuple[str, bytes]:
        return self._write(self._table.slice(start, end - start))

    def rows(self, places: list[int]) -> list[Any]:
        return list(self._table.take(pa.array(places, pa.int64())).to_pylist())


def _parquet(path: Path) -> Source:
    from pyarrow import parquet

    return _Table(parquet.read_table(path), _as_stream)


def _csv(path: Path) -> Source:
    from pyarrow import csv

    names = csv.open_csv(path).schema.names
    return _Table(csv.read_csv(path, convert_options=as_text(names)), _as_csv)


def _as_stream(table: pa.Table) -> tuple[str, bytes]:
    plain = table.schema
    for place, column in enumerate(plain):
        if pa.types.is_dictionary(column.type):
            plain = plain.set(place, column.with_type(column.type.value_type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain) as writer:
        writer.write_table(table.cast(plain))
    return ARROW, bytes(sink.getvalue())


def _as_csv(table: pa.Table) -> tuple[str, bytes]:
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink)
    return CSV, bytes(sink.getvalue())
