"""Our connections as Airflow finds them in the environment."""

from __future__ import annotations

import json

from adin.connections import Connection


def variables(*conns: Connection) -> dict[str, str]:
    """Return environment variables by which Airflow has connections ``<name>_default``."""
    found = {}
    for conn in conns:
        facts = {field: getattr(conn, field) for field in ("host", "port", "login", "password", "schema")}
        told = {"conn_type": f"adin_{conn.name}", **facts, "extra": dict(conn.extra)}
        found[f"AIRFLOW_CONN_{conn.name.upper()}_DEFAULT"] = json.dumps(told)
    return found


def offer(patch: object, *conns: Connection) -> None:
    """Give Airflow connections for as long as a ``pytest.MonkeyPatch`` lasts."""
    for name, value in variables(*conns).items():
        patch.setenv(name, value)  # type: ignore[attr-defined]
