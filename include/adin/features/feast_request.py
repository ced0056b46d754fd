"""What a call of Feast's ``get_historical_features`` asks for: the same for each edition of the offline store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from feast import FeatureView, OnDemandFeatureView
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.offline_store import RetrievalMetadata

from adin.errors import ConfigError
from adin.features import repo


@dataclass(frozen=True)
class Wanted:
    """One view that is asked for.

    :param view: with all its features, under the name it is asked for by.
    :param source: Feast's source of its rows.
    :param columns: what is wanted of it: feature -> column of the answer.
    """

    view: repo.View
    source: Any
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """The parameters of the call that say which features are wanted, under Feast's names."""

    config: Any
    feature_views: list[FeatureView]
    feature_refs: list[str]
    registry: Any
    project: str
    full_feature_names: bool

    def wanted(self, columns: Iterable[str]) -> list[Wanted]:
        """Return each view that is asked for, in the order of the references.

        :param columns: those of the entity rows.
        :raises ConfigError: a view maps columns or keys to other names.
        :raises FeastEntityDFMissingColumnsError: the entity rows lack a key.
        """
        entities = {each.name: each for each in self.registry.list_entities(self.project, allow_cache=True)}
        found = [self._wanted(view, names, entities) for view, names in self._requested()]
        keys = {key for each in found for key in each.view.keys}
        if missing := keys - set(columns):
            raise FeastEntityDFMissingColumnsError(keys, missing)
        return found

    def job(self, columns: Sequence[str], at: str, span: tuple[datetime | None, datetime | None]) -> dict[str, Any]:
        """Return what each of Feast's retrieval jobs is made with.

        :param columns: those of the entity rows; ``at`` is that of their time.
        :param span: the first and the last time.
        """
        return {
            "config": self.config,
            "full_feature_names": self.full_feature_names,
            "on_demand_feature_views": OnDemandFeatureView.get_requested_odfvs(
                self.feature_refs, self.project, self.registry
            ),
            "metadata": RetrievalMetadata(
                features=self.feature_refs,
                keys=[name for name in columns if name != at],
                min_event_timestamp=span[0],
                max_event_timestamp=span[1],
            ),
        }

    def _requested(self) -> list[tuple[FeatureView, list[str]]]:
        """Return each view that is asked for with its features."""
        views = {found.projection.name_to_use(): found for found in self.feature_views}
        names: dict[str, list[str]] = {}
        for reference in self.feature_refs:
            view, _, feature = reference.partition(":")
            if view in views:  # the others are on-demand views, which Feast works out afterwards
                names.setdefault(view, []).append(feature)
        for found in self.feature_views:  # inputs of on-demand views
            names.setdefault(found.projection.name_to_use(), [feature.name for feature in found.features])
        return [(views[view], chosen) for view, chosen in names.items()]

    def _wanted(self, found: FeatureView, names: list[str], entities: Mapping[str, Any]) -> Wanted:
        if found.projection.join_key_map or found.batch_source.field_mapping:
            raise ConfigError(
                f"{found.name} maps keys or columns to other names, which this join does not know.",
                "Name the source's columns as the view does, or use Feast's own store.",
            )
        called = found.projection.name_to_use()
        columns = {name: f"{called}__{name}" if self.full_feature_names else name for name in names}
        return Wanted(replace(repo.as_view(found, entities), name=called), found.batch_source, columns)
