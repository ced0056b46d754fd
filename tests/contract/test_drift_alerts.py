"""Drift from the planted fault to the alert in a real Alertmanager, and back after the repair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adin.connections import Connection
from adin.drift import engine
from adin.models.objects import Bucket
from clickhouse_server import ClickHouseServer
from drift_world import World, rows
from monitoring_servers import AlertmanagerServer, AlertServer, Receiver, programs
from server_fixtures import PORT_BASE, own_registry
from test_drift import BROKEN, FAULTS, LEARNED, MENDED
from waiting import until

pytestmark = pytest.mark.flow(15, 26)

_NAMES = {"data": "AdinDataDrift", "label": "AdinLabelDrift", "quality": "AdinDataQuality"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def test_planted_faults_are_alerts_after_one_run_linked_to_their_report_and_over_after_repair(
    stack: dict[str, Connection],
    clickhouse_server: ClickHouseServer,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs()
    monkeypatch.setenv("ADIN_CONN_CLICKHOUSE", clickhouse_server.connection.uri)
    worlds = {name: World(clickhouse_server.connection) for name in FAULTS}
    (tmp_path / "alertmanager").mkdir()
    alertmanager = AlertmanagerServer(tmp_path / "alertmanager", receiver)
    with own_registry(stack) as own:
        home, bucket = tmp_path / "home", Bucket(own.s3, own.bucket)
        service = AlertServer(home, PORT_BASE + 50, own.database, own.s3, alertmanager.connection)
        for world in worlds.values():
            (home / "problems" / world.problem).mkdir()
            (home / "problems" / world.problem / "problem.yaml").touch()

        def check(commit: str) -> None:
            for world in worlds.values():
                engine.check(world.source(commit), bucket, f"test-{commit[:8]}", conn=world.connection)

        def firing() -> set[tuple[str, str, str]]:
            labels = [each["labels"] for each in alertmanager.alerts()]
            return {(each["alertname"], each["problem"], each["subject"]) for each in labels if "subject" in each}

        for name, world in worlds.items():
            world.store(LEARNED, rows())
            world.store(BROKEN, FAULTS[name][0](rows()))
            world.store(MENDED, rows())
        expected = {
            (_NAMES[kind], worlds[name].problem, subject)
            for name, (_, subject, kinds, _) in FAULTS.items()
            for kind, _ in kinds
        }
        try:
            alertmanager.start()
            service.start()
            check(LEARNED)
            check(BROKEN)
            until(lambda: {problem for _, problem, _ in firing()} == {each.problem for each in worlds.values()})
            assert firing() <= expected
            reports = [each["annotations"]["report"] for each in alertmanager.alerts() if "subject" in each["labels"]]
            assert all("/drift/" in report for report in reports), reports
            check(MENDED)
            until(lambda: not firing())
            problems = {each.problem for each in worlds.values()}
            until(
                lambda: (
                    {labels["problem"] for _, status, labels in _drift(receiver) if status == "resolved"} == problems
                )
            )
            told = [(name, status, labels["problem"], labels["check"]) for name, status, labels in _drift(receiver)]
            assert len(told) == len(set(told)), "each is told once, and once that it is over"
        finally:
            service.kill()
            alertmanager.kill()


def _drift(receiver: Receiver) -> list[tuple[str, str, dict[str, str]]]:
    return [(name, status, told["labels"]) for name, status, told in receiver.told if "subject" in told["labels"]]
