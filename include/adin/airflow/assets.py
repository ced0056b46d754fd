"""Every asset, declared once: what one DAG makes and another waits for."""

from __future__ import annotations

from airflow.sdk import Asset


def features(domain: str) -> Asset:
    """Return the asset of a domain's published features."""
    return Asset(name=f"features_{domain}", uri=f"adin://features/{domain}", group="features")


def dataset(problem: str) -> Asset:
    """Return the asset of a problem's dataset versions."""
    return Asset(name=f"dataset_{problem}", uri=f"adin://datasets/{problem}", group="datasets")


def model(problem: str) -> Asset:
    """Return the asset of a problem's champion; the service ``alerts`` writes its events from the model's log."""
    return Asset(name=f"model_{problem}", uri=f"adin://models/{problem}", group="models")


def drift(problem: str) -> Asset:
    """Return the asset of drift that asks for a training of a problem."""
    return Asset(name=f"drift_{problem}", uri=f"adin://drift/{problem}", group="drift")
