"""Adin's pages and API in the Airflow UI."""

from __future__ import annotations

from typing import Any, ClassVar

from adin.airflow.web.app import create
from airflow.plugins_manager import AirflowPlugin


class AdinPlugin(AirflowPlugin):
    """Models, Datasets, Drift and Status in the menu, ``/adin/api/v1`` for programs."""

    name = "adin"
    fastapi_apps: ClassVar[list[Any]] = [{"app": create(), "url_prefix": "/adin", "name": "Adin"}]
    external_views: ClassVar[list[dict[str, Any]]] = [
        {"name": title, "href": f"adin/{route}", "destination": "nav", "category": "browse", "url_route": route}
        for title, route in (("Models", "models"), ("Datasets", "datasets"), ("Drift", "drift"), ("Status", "status"))
    ]
