"""What Feast's registry says of one feature service, to be kept with what was made by it."""

from __future__ import annotations

import json
from typing import Any

from adin.errors import DataError
from adin.features import store
from adin.features.registry_merge import definition
from adin.features.repo import Service


def snapshot(service: Service) -> bytes:
    """Return the registered service, its views and entities as JSON; equal definitions give equal bytes.

    Left out is what changes without them: when an object was applied, what is loaded, pickled functions (their source
    text stays).

    :param service: as the feature repository has it.
    :raises DataError: the registry has no such service, or one with other features.
    """
    objects = store.registered()
    registered = _by_name(objects, "FeatureService").get(service.name)
    columns = tuple(
        f"{view.name}__{item.name}"
        for view in getattr(registered, "feature_view_projections", ())
        for item in view.features
    )
    if columns != service.columns:
        what = "other features" if registered is not None else "none of this name"
        raise DataError(
            f"The feature repository has the feature service {service.name}; Feast's registry has {what}.",
            "Run `adin features apply` or the DAG apply_features.",
        )
    views = [view.name for view in service.views] + [view.name for view in service.on_demand]
    kept: dict[str, list[Any]] = {"FeatureService": [registered]}
    for kind in ("FeatureView", "OnDemandFeatureView"):
        known = _by_name(objects, kind)
        kept[kind] = [known[name] for name in views if name in known]
    needed = {name for view in kept["FeatureView"] for name in view.entities}
    kept["Entity"] = [each for name, each in _by_name(objects, "Entity").items() if name in needed]
    told = {
        kind: sorted((definition(each.to_proto()) for each in found), key=lambda facts: str(facts["name"]))
        for kind, found in kept.items()
    }
    return json.dumps(told, indent=2, sort_keys=True).encode()


def _by_name(objects: list[Any], kind: str) -> dict[str, Any]:
    return {each.name: each for each in objects if type(each).__name__ == kind}
