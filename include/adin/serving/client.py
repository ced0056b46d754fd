"""The model server from outside: put a version under load, ask it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adin.connections import Connection, connection
from adin.errors import (
    AdinError,
    ConfigError,
    DataError,
    ModelError,
    NotFoundError,
    RefusedError,
    ServiceError,
    UnreachableError,
)
from adin.limits import Limits, guarded

_ERRORS: dict[int, type[AdinError]] = {
    400: ConfigError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    409: RefusedError,
    422: DataError,
    500: ModelError,  # what the server knows it tells by the others
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}


class ServingClient:
    """A KServe model server.

    Its methods raise :class:`UnreachableError` while it is away, :class:`ModelError` when the version itself fails.

    :param conn: default the connection ``kserve``.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        import httpx

        self._conn = conn or connection("kserve")
        limits = Limits.of(self._conn)
        self._http = httpx.Client(
            base_url=self._conn.url,
            headers={"Authorization": f"Bearer {self._conn.password}"},
            timeout=httpx.Timeout(limits.read_timeout, connect=limits.connect_timeout),
            transport=httpx.HTTPTransport(retries=limits.retries, limits=httpx.Limits(max_connections=limits.pool)),
        )

    def load(self, name: str, version: int) -> dict[str, Any]:
        """Put a version under load; requests meanwhile are answered by the former one.

        :raises RefusedError: a view of its features has nothing online.
        """
        return self._call("POST", f"/v2/repository/models/{name}/load", {"parameters": {"version": version}})

    def check(self, name: str, version: int) -> dict[str, Any]:
        """See that a version loads, answers, and answers test rows as its evaluation did; nothing comes under load.

        :returns: as :func:`adin.serving.predictor.check`.
        """
        return self._call("POST", f"/v2/repository/models/{name}/check", {"parameters": {"version": version}})

    def status(self, name: str) -> dict[str, Any]:
        """Return which version answers; :raises NotFoundError: none does."""
        return self._call("GET", f"/v2/repository/models/{name}")

    def predict(self, name: str, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Ask for predictions by the V1 protocol.

        :raises DataError: an instance is wrong; :raises NotFoundError: no version is under load.
        """
        return self._call("POST", f"/v1/models/{name}:predict", {"instances": list(instances)})

    def counted(self, name: str, version: int) -> dict[int, int]:
        """Return how many requests a version has answered since the server's start, by HTTP status."""
        line = re.compile(r'adin_requests_total\{code="(\d+)",model="([^"]+)",version="(\d+)"\} (\S+)')
        found = map(line.fullmatch, self._request("GET", "/metrics").text.splitlines())
        wanted = (match for match in found if match and (match[2], int(match[3])) == (name, version))
        return {int(match[1]): int(float(match[4])) for match in wanted}

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return dict(self._request(method, path, body).json())

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        # a version that fails under load is told by its answers: only a server that is away opens the circuit
        with guarded(self._conn, UnreachableError):
            return self._ask(method, path, body)

    def _ask(self, method: str, path: str, body: Any = None, *, again: bool = False) -> Any:
        import httpx

        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            if again or isinstance(error, httpx.TimeoutException):
                raise UnreachableError(
                    f"The model server at {self._conn.url} does not answer: {error}.", "Is it up?"
                ) from None
            # a kept connection may have been closed meanwhile, as after an error of the server's own; all that is
            # asked for here may be asked for twice
            return self._ask(method, path, body, again=True)
        if answer.is_error:
            kind = _ERRORS.get(answer.status_code, ServiceError)
            raise kind(f"Model server: {_text(answer)}")
        return answer


def _text(answer: Any) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:300]}"
