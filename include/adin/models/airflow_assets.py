"""Each change of champion as an event of the model's asset in Airflow, whoever made it, once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adin.connections import Connection
from adin.errors import ServiceError
from adin.models.log import Entry

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AirflowAssets:
    """Airflow as a receiver of :mod:`adin.models.events`.

    :param conn: the connection ``airflow``: host, port, and a user who may create asset events.
    """

    conn: Connection
    name: str = "airflow-assets"
    models: str = "*"

    def wants(self, entry: Entry, before: Entry | None) -> bool:
        """Tell whether the champion is another after the entry."""
        return entry.aliases.get("champion") != _champion(before)

    def take(self, entry: Entry, before: Entry | None, http: httpx.Client) -> None:
        """Create the event, unless an earlier try has; an asset that no DAG names has nobody who waits for it.

        :raises ServiceError: Airflow refuses.
        """
        token = self._call(
            http, "POST", "/auth/token", json={"username": self.conn.login, "password": self.conn.password}
        )
        signed = {"headers": {"Authorization": f"Bearer {token['access_token']}"}}
        uri = f"adin://models/{entry.model}"
        # what is asked for is a part of the URI, in which _ stands for any letter
        found = self._call(http, "GET", "/api/v2/assets", params={"uri_pattern": uri, "limit": 100}, **signed)
        asset = next((each["id"] for each in found["assets"] if each["uri"] == uri), None)
        if asset is None:
            log.warning("Airflow knows no asset %s: entry %s is not told", uri, entry.seq)
            return
        asked = {"asset_id": asset, "order_by": "-timestamp", "limit": 100}
        told = self._call(http, "GET", "/api/v2/assets/events", params=asked, **signed)["asset_events"]
        if not any((event["extra"] or {}).get("id") == entry.id for event in told):
            body = {"asset_id": asset, "extra": facts(entry, before)}
            self._call(http, "POST", "/api/v2/assets/events", json=body, **signed)

    def _call(self, http: httpx.Client, method: str, path: str, **more: Any) -> Any:
        answer = http.request(method, self.conn.url + path, **more)
        if not answer.is_success:
            raise ServiceError(f"Airflow at {self.conn.url}: {method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()


def facts(entry: Entry, before: Entry | None) -> dict[str, Any]:
    """Return what the asset's event says: which champion took whose place, by what, by whom and why."""
    return {
        "id": entry.id,
        "entry": entry.seq,
        "event": entry.event,
        "champion": entry.aliases.get("champion"),
        "former": _champion(before),
        "actor": entry.actor,
        "time": entry.time.isoformat(),
        "reason": entry.reason,
    }


def _champion(entry: Entry | None) -> int | None:
    return entry.aliases.get("champion") if entry else None
