"""What alerts are and what the sources make of what they see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from adin.alerts import Alert, Found
from adin.alerts.book import Book, Standing
from adin.alerts.facts import Facts
from adin.alerts.sources import DriftSource, StackSource, sources
from adin.errors import ConfigError, ServiceError
from adin.settings import settings

pytestmark = pytest.mark.flow(15, 26)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def alert(summary: str = "psi is 0.3", since: datetime = NOW, **labels: str) -> Alert:
    return Alert(name="AdinDataDrift", severity="warning", labels=labels, summary=summary, since=since)


def test_an_alert_is_the_same_whatever_its_values_are() -> None:
    assert alert("psi is 0.3", feature="distance").key == alert("psi is 0.4", feature="distance").key
    assert alert(feature="distance").key != alert(feature="weight").key
    sent = alert(feature="distance").wire(NOW + timedelta(minutes=1))
    assert sent["labels"] == {"alertname": "AdinDataDrift", "severity": "warning", "feature": "distance"}
    assert (sent["startsAt"], sent["endsAt"]) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:01:00.000Z")


def test_an_alert_keeps_its_beginning_and_takes_its_new_values_while_it_lasts() -> None:
    book = Book()
    book.take("drift", Found(up=[alert("psi is 0.3")]), NOW)
    book.take("drift", Found(up=[alert("psi is 0.4", since=NOW + timedelta(hours=1))]), NOW + timedelta(hours=1))
    (standing,) = book.alerts.values()
    assert (standing.alert.since, standing.alert.summary, standing.over) == (NOW, "psi is 0.4", None)
    book.take("stack", Found(), NOW)
    assert standing.over is None  # what another source sees is none of its business
    book.take("drift", Found(), NOW + timedelta(hours=2))
    assert next(iter(book.alerts.values())).over == NOW + timedelta(hours=2)


def test_what_was_over_before_it_could_be_told_is_told_and_then_taken_back() -> None:
    late = Standing(alert=alert(), source="drift", over=NOW)
    assert late.firing(NOW + timedelta(days=9), hold=300)
    late.delivered = NOW + timedelta(days=9)
    assert late.firing(late.delivered + timedelta(seconds=299), hold=300)
    assert not late.firing(late.delivered + timedelta(seconds=301), hold=300)


@dataclass
class Health:
    name: str
    state: str = "RUNNING"
    latency: float | None = 0.01
    problem: str = ""
    restarts: int = 0


def test_a_service_that_stays_ill_is_down_and_one_that_was_stopped_by_hand_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = [Health("kfp"), Health("redis", latency=None, problem="refused"), Health("kserve", "STOPPED", None)]
    source = StackSource(lambda: seen)
    found = source.look(None, NOW)
    assert found.up == []  # it may be back in a moment
    found = source.look(found.position, NOW + timedelta(seconds=61))
    assert [(each.name, each.labels, each.since) for each in found.up] == [
        ("AdinServiceDown", {"service": "redis"}, NOW)
    ]
    seen[1] = Health("redis")
    assert source.look(found.position, NOW + timedelta(seconds=90)).up == []


@dataclass
class Alarm:
    """As the drift engine tells it."""

    kind: str
    problem: str = "bread"
    subject: str = "price"
    check: str = "psi"
    since: date = date(2026, 1, 1)
    value: float = 0.31
    limit: float = 0.2
    report: str = "/adin/drift/bread/2026-01-01"


def test_each_kind_of_drift_is_an_alert_of_its_own_linked_to_its_report() -> None:
    alarms = [Alarm("data"), Alarm("label", subject="bought"), Alarm("concept", subject="champion"), Alarm("quality")]
    found = DriftSource(lambda problem: alarms if problem == "bread" else [], lambda: ["bread", "cake"]).look(None, NOW)
    assert [each.name for each in found.up] == [
        "AdinDataDrift", "AdinLabelDrift", "AdinConceptDrift", "AdinDataQuality",
    ]  # fmt: skip
    assert found.up[0].labels == {"problem": "bread", "subject": "price", "check": "psi"}
    assert found.up[0].wire(NOW)["annotations"]["report"].endswith(":17013/adin/drift/bread/2026-01-01")
    assert "0.31, limit 0.2" in found.up[0].summary


def probe(lag_hours: float, **errors: str) -> dict[str, Any]:
    view = {"domain": "shop", "view": "prices", "online_until": "2025-12-30T00:00:00+00:00", "lag": lag_hours * 3600}
    never = {"domain": "shop", "view": "new", "online_until": None, "lag": None}
    return {"views": [view, never], "datasets": [], "errors": errors}


def test_features_that_lag_behind_what_has_arrived_are_stale_and_an_unread_view_is_not_fresh() -> None:
    found = probe(49)
    facts = Facts(SimpleNamespace(), list, lambda: found)  # type: ignore[arg-type]
    assert [each.labels for each in facts.look(None, NOW).up] == [{"domain": "shop", "view": "prices"}]
    found = probe(47)
    assert facts.look(None, NOW).up == []
    found = probe(1, **{"features of shop": "no answer"})
    with pytest.raises(ServiceError, match="no answer"):
        facts.look(None, NOW)


def test_a_source_of_an_installation_is_added_by_name_and_a_wrong_name_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, known in (("unit_source:Source", True), ("unit_source:Nothing", False)):
        monkeypatch.setitem(__import__("sys").modules, "unit_source", SimpleNamespace(Source=Found))
        monkeypatch.setenv("ADIN_ALERT_SOURCES", f'["{name}"]')
        settings.cache_clear()
        try:
            if known:
                assert isinstance(sources(SimpleNamespace(models=list))[-1], Found)  # type: ignore[arg-type]
            else:
                with pytest.raises(ConfigError, match="ADIN_ALERT_SOURCES: unit_source:Nothing"):
                    sources(SimpleNamespace(models=list))  # type: ignore[arg-type]
        finally:
            settings.cache_clear()
