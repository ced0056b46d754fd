"""Alertmanager's API v2, as far as a sender needs it."""

from __future__ import annotations

import logging
from typing import Any

from adin.connections import Connection, connection, declared
from adin.errors import UnreachableError
from adin.settings import settings

log = logging.getLogger(__name__)


class Alertmanager:
    """A client of the connection ``alertmanager``; where none is declared, the sender's log has the alerts.

    :param conn: host and port; login and password for basic authentication; extra ``scheme``, ``prefix``.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        import httpx

        self.conn = conn or (connection("alertmanager") if declared("alertmanager") else None)
        timeout = httpx.Timeout(settings().connect_timeout * 2, connect=settings().connect_timeout)
        auth = (self.conn.login, self.conn.password) if self.conn and self.conn.login else None
        self._http = httpx.Client(timeout=timeout, auth=auth, follow_redirects=False)

    def post(self, alerts: dict[str, dict[str, Any]]) -> set[str]:
        """Send alerts by their identity; return which were taken.

        :raises UnreachableError: it does not answer.
        """
        if self.conn is None:
            return set(alerts)
        answer = self._send(list(alerts.values()))
        if answer.is_success:
            return set(alerts)
        if answer.status_code != 400:
            raise UnreachableError(f"Alertmanager answers {answer.status_code}: {answer.text[:200]}")
        # one of them is not as it should be: the others must not wait for it
        each = {key: self._send([alert]) for key, alert in alerts.items()}
        for key, one in each.items():
            if not one.is_success:
                log.error("Alertmanager refuses %s: %s", alerts[key]["labels"], one.text[:200])
        return {key for key, one in each.items() if one.is_success}

    def _send(self, alerts: list[dict[str, Any]]) -> Any:
        import httpx

        assert self.conn is not None
        url = f"{self.conn.url}{self.conn.extra.get('prefix', '')}/api/v2/alerts"
        try:
            return self._http.post(url, json=alerts)
        except httpx.HTTPError as error:
            raise UnreachableError(f"Alertmanager at {self.conn.url} does not answer: {error}.") from None
