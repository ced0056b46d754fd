"""The registry and the datasets as the web server reaches them: by Airflow's connections."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from adin.airflow.hooks import AmversionHook, S3Hook, activate
from adin.connections import Connection

if TYPE_CHECKING:
    from adin.models import Registry
    from adin.models.access import Access


def models() -> Registry:
    """Return the registry; its connection pool is kept from request to request."""
    return _registry(AmversionHook().get_conn().uri, S3Hook().get_conn().uri)


@lru_cache(maxsize=4)
def _registry(amversion: str, s3: str) -> Registry:
    from adin.models import registry

    return registry(Connection.from_uri("amversion", amversion), s3=Connection.from_uri("s3", s3))


def access() -> Access:
    """Return who may do what with which model; what was read once is only added to."""
    return _access(AmversionHook().get_conn().uri, S3Hook().get_conn().uri)


@lru_cache(maxsize=4)
def _access(amversion: str, s3: str) -> Access:
    from adin.models.access import Access

    return Access(_registry(amversion, s3).store)


def use_control() -> None:
    """Let the control functions of this process use Airflow's connections."""
    activate("amversion", "s3", "kserve", "kfp")


def use_lake() -> None:
    """Let the dataset functions of this process use Airflow's connection."""
    activate("lakefs", "s3")


def use_drift() -> None:
    """Let the drift functions of this process use Airflow's connections."""
    activate("clickhouse", "s3")
