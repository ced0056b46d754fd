"""Two changes of one registry of Feast, made from the same state, brought together object by object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from adin.errors import ConflictError

#: What Feast alone writes into a definition.
_FEASTS_OWN = {"project", "meta", "version", "current_version_number", "state"}

#: Numbered copies of views, and a project's id: of two made at once the first stays.
_MADE_ONCE = {"FeatureViewVersionRecord", "ProjectMetadata"}


def merged(base: Any, ours: Any, theirs: Any) -> Any:
    """Return their registry with what we changed since the base.

    :raises ConflictError: the same object was changed on both sides, to different things.
    """
    after = type(theirs)()
    after.CopyFrom(theirs)
    after.registry_schema_version = theirs.registry_schema_version or ours.registry_schema_version
    if ours.infra != base.infra:
        after.infra.CopyFrom(ours.infra)
    for before, mine, found in zip(_lists(base), _lists(ours), _lists(after), strict=True):
        _merge_list(before, mine, found)
    return after


def _lists(registry: Any) -> Iterator[Any]:
    """Return the lists of objects a registry has."""
    for field in registry.DESCRIPTOR.fields:
        value = getattr(registry, field.name)
        if hasattr(value, "add"):
            yield value
    yield registry.feature_view_version_history.records


def _merge_list(base: Any, ours: Any, theirs: Any) -> None:
    before, mine, found = ({_name(each): each for each in side} for side in (base, ours, theirs))
    after = [_merge(before.get(name), mine.get(name), found.get(name)) for name in {**found, **mine}]
    content = [each.SerializeToString() for each in after if each is not None]
    del theirs[:]
    for each in content:
        theirs.add().ParseFromString(each)


def _name(found: Any) -> tuple[Any, ...]:
    told = found.spec if "spec" in found.DESCRIPTOR.fields_by_name else found
    names = ("project", "project_id", "name", "feature_view_name", "version_number")
    return tuple(getattr(told, name, None) for name in names)


def _merge(base: Any, ours: Any, theirs: Any) -> Any:
    """Return one object after both sides' changes; None stands for no such object."""
    if _same(theirs, base):
        chosen = ours
    elif _same(ours, base) or _same(ours, theirs) or type(theirs or ours).__name__ in _MADE_ONCE:
        chosen = theirs
    else:
        changed = ours if ours is not None else theirs
        raise ConflictError(
            f"{type(changed).__name__} {_name(changed)[2]} was changed by another at the same time.",
            "Read the plan again, then apply again.",
        )
    if chosen is None or "materialization_intervals" not in getattr(chosen, "meta", chosen).DESCRIPTOR.fields_by_name:
        return chosen
    kept = type(chosen)()
    kept.CopyFrom(chosen)
    was, mine, found = (_spans(side) for side in (base, ours, theirs))
    _set_spans(kept, (found - (was - mine)) | (mine - was))
    if ours is not None and (base is None or ours.meta.state != base.meta.state):
        kept.meta.state = ours.meta.state
    elif theirs is not None:
        kept.meta.state = theirs.meta.state
    return kept


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(definition(one) == definition(other))


def _spans(view: Any) -> set[tuple[int, int]]:
    found = view.meta.materialization_intervals if view is not None else ()
    return {(each.start_time.ToNanoseconds(), each.end_time.ToNanoseconds()) for each in found}


def _set_spans(view: Any, spans: set[tuple[int, int]]) -> None:
    del view.meta.materialization_intervals[:]
    for start, end in joined(spans):
        added = view.meta.materialization_intervals.add()
        added.start_time.FromNanoseconds(start)
        added.end_time.FromNanoseconds(end)


def joined(spans: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return spans in order, those that overlap or touch as one."""
    found: list[tuple[Any, Any]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def definition(message: Any) -> dict[str, Any]:
    """Return what an object of a registry is declared to be, without what Feast adds or stamps."""
    from google.protobuf.json_format import MessageToDict

    told = MessageToDict(getattr(message, "spec", message), preserving_proto_field_name=True)
    plain: dict[str, Any] = _plain({key: value for key, value in told.items() if key not in _FEASTS_OWN})
    return plain


def _plain(value: Any) -> Any:
    """Return facts without what Feast adds to a stored object and with lists of named things in one order."""
    if isinstance(value, dict):
        # a pickled function differs between runs; its source text says whether it changed
        return {key: _plain(each) for key, each in value.items() if key not in {"body", "meta"}}
    if isinstance(value, list):
        plain = [_plain(each) for each in value]
        named = all(isinstance(each, dict) and "name" in each for each in plain)
        return sorted(plain, key=lambda each: str(each["name"])) if named else plain
    return value
