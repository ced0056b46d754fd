"""What definitions promise to those who read features, and who would miss what a change takes away."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adin.connections import declared
from adin.errors import AdinError


@dataclass
class Promises:
    """What a set of Feast's objects offers.

    :param features: per full name ``view__feature`` its type and the keys it is found by.
    :param inputs: per on-demand feature the full names of the features it is worked out from.
    :param services: per feature service the full names of its features.
    """

    features: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)
    services: dict[str, set[str]] = field(default_factory=dict)


def promises(objects: Iterable[Any]) -> Promises:
    """Return what Feast's objects offer, whatever else they say."""
    from feast import Entity, FeatureService, FeatureView
    from feast.on_demand_feature_view import OnDemandFeatureView

    objects, found = list(objects), Promises()
    entities = {each.name: each for each in objects if isinstance(each, Entity)}
    for each in objects:
        if isinstance(each, FeatureView):
            keys = sorted(_key(entities.get(name), name) for name in each.entities)
            found.features |= {f"{each.name}__{item.name}": _told(item.dtype, keys) for item in each.features}
        elif isinstance(each, OnDemandFeatureView):
            request = [item for source in each.source_request_sources.values() for item in source.schema]
            asked = sorted(f"{item.name} {item.dtype}" for item in request)
            made = {f"{each.name}__{item.name}": _told(item.dtype, asked) for item in each.features}
            found.features |= made
            found.inputs |= dict.fromkeys(made, _full_names(each.source_feature_view_projections.values()))
        elif isinstance(each, FeatureService):
            found.services[each.name] = set(_full_names(each.feature_view_projections))
    return found


def _key(entity: Any, name: str) -> str:
    return f"{entity.join_key} {entity.value_type.name}" if entity is not None else name


def _told(kind: Any, keys: list[str]) -> str:
    return f"{kind} by {', '.join(keys) or 'nothing'}"


def _full_names(projections: Iterable[Any]) -> list[str]:
    return [f"{each.name}__{item.name}" for each in projections for item in each.features]


def broken(before: Promises, after: Promises) -> dict[str, str]:
    """Return each feature that is no longer what it was, with what happened to it."""
    found = {
        name: f"{told} -> {after.features.get(name, 'removed')}"
        for name, told in before.features.items()
        if after.features.get(name) != told
    }
    for name, inputs in before.inputs.items():
        if name not in found and (lost := sorted(set(inputs) & set(found))):
            found[name] = f"is worked out from {', '.join(lost)}"
    return found


def needed(lost: Mapping[str, str], after: Promises, ended: Collection[str]) -> list[str]:
    """Return who still needs what a change takes away, and what to do; asks AMVersion if there is a connection.

    :param lost: features as :func:`broken` returns them.
    :param after: what there would be after the change.
    :param ended: feature services that would be gone.
    :raises ServiceError: AMVersion does not answer, so that nobody can say what is under load.
    """
    models = _by_models(lost, after, ended) if declared("amversion") else []
    return [*_by_problems(lost, after, ended), *models]


def _by_problems(lost: Mapping[str, str], after: Promises, ended: Collection[str]) -> list[str]:
    from adin import problem

    told = []
    for name in problem.names():
        try:
            service = problem.problem(name).features
        except AdinError:  # a problem that cannot be read is trained by nobody
            continue
        if service in ended:
            told.append(f"Problem {name} learns from the feature service {service}: change its `features` first.")
        elif used := sorted(after.services.get(service, set()) & set(lost)):
            told.append(
                f"Problem {name} learns from {', '.join(used)} by the feature service {service}: "
                "give the new feature another name, or take the old one out of the service first."
            )
    return told


def _by_models(lost: Mapping[str, str], after: Promises, ended: Collection[str]) -> list[str]:
    from adin.models import registry

    models, told = registry(), []
    for name in models.models():
        state = models.state(name)
        for number in sorted({each for each in (state.champion, state.served) if each is not None}):
            manifest = models.version(name, number).manifest
            features, offered = set(manifest.features), after.services.get(manifest.service)
            # of a service that was never applied, nothing can be missing
            known = offered is not None or manifest.service in ended
            if used := sorted(features & set(lost) | (features - (offered or set()) if known else set())):
                told.append(
                    f"Model {name} version {number}, which is under load, needs {', '.join(used)}: "
                    f"keep them, train {name} with another feature service, promote that version, then apply again."
                )
    return told
