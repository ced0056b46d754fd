"""Roles, teams and tokens, in both editions."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from adin.commands.model import app
from adin.connections import Connection
from adin.errors import ConfigError, DataError, NotFoundError, RefusedError, ServiceError, SignInError
from adin.models import registry
from adin.models.access import ACTIONS, ROLES, Access
from processes import at_once
from servers import Servers, execute
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(16, 18)

WHO = {"actor": "root", "reason": "test"}
#: What each role may do, written down a second time: a change of it must be meant.
MAY = {
    "viewer": {"read", "download"},
    "trainer": {"read", "download", "register", "validate", "hold", "challenge", "reject", "alias"},
    "approver": {"read", "download", "promote", "retire", "rollback", "freeze", "unfreeze", "ct"},
    "pusher": {"push"},
    "admin": set(ACTIONS),
}


@pytest.fixture
def access(empty: Connection, servers: Servers) -> Access:
    return Access(registry(empty, s3=servers.s3).store)


def allowed(access: Access, token: str, action: Any, model: str) -> bool:
    try:
        access.authorise(token, action, model)
    except RefusedError:
        return False
    return True


def test_every_action_is_open_to_the_roles_meant_for_it_and_refused_and_recorded_for_all_others(access: Access) -> None:
    tokens = {}
    for role in ROLES:
        access.grant(role, role, "air", **WHO)
        tokens[role] = access.issue(role, **WHO)
    asked = list(product(ROLES, ACTIONS))
    answers = {(role, action): allowed(access, tokens[role], action, "air") for role, action in asked}
    assert answers == {(role, action): action in MAY[role] for role, action in asked}
    denied = [(denial.subject, denial.action) for denial in access.denials()]
    assert denied == [each for each in asked if not answers[each]]
    assert not any(allowed(access, tokens[role], action, "sea") for role, action in asked)


def test_a_role_reaches_as_far_as_its_models(access: Access) -> None:
    reach = {"air": ["air"], "air*": ["air", "air_b"], "air_*": ["air_b"], "*": ["air", "air_b", "sea", "*"]}
    for n, (scope, reached) in enumerate(reach.items()):
        access.grant(f"u{n}", "approver", scope, **WHO)
        token = access.issue(f"u{n}", **WHO)
        tried = ["air", "air_b", "sea", "*"]
        assert [model for model in tried if allowed(access, token, "promote", model)] == reached


def test_a_role_on_models_reaches_no_view_and_the_other_way_round_but_for_all(access: Access) -> None:
    reach = {
        "view:air": ["view:air"],
        "view:a*": ["view:air"],
        "view:*": ["view:air", "view:sea"],
        "v*": ["view_count"],
        "air": ["air"],
        "*": ["air", "view_count", "view:air", "view:sea"],
    }
    for n, (scope, reached) in enumerate(reach.items()):
        access.grant(f"u{n}", "pusher", scope, **WHO)
        token = access.issue(f"u{n}", **WHO)
        tried = ["air", "view_count", "view:air", "view:sea"]
        assert [name for name in tried if allowed(access, token, "push", name)] == reached, scope


def test_a_token_gives_no_more_than_it_was_made_for_and_no_more_than_its_user_may(access: Access) -> None:
    access.grant("alice", "admin", "*", **WHO)
    narrow = access.issue("alice", role="viewer", scope="air_*", **WHO)
    assert allowed(access, narrow, "read", "air_b")
    assert not allowed(access, narrow, "promote", "air_b")
    assert not allowed(access, narrow, "read", "sea")
    wide = access.issue("bob", role="admin", scope="*", **WHO)
    assert not allowed(access, wide, "read", "air")


def test_a_model_is_shared_with_a_team_and_its_members_come_and_go(access: Access) -> None:
    access.grant("team:risk", "viewer", "air", **WHO)
    token = access.issue("alice", **WHO)
    assert not allowed(access, token, "read", "air")
    access.join("team:risk", "alice", **WHO)
    assert allowed(access, token, "read", "air")
    assert not allowed(access, token, "promote", "air")
    access.leave("team:risk", "alice", **WHO)
    assert not allowed(access, token, "read", "air")
    access.join("team:risk", "alice", **WHO)
    access.revoke("team:risk", "viewer", "air", **WHO)
    assert not allowed(access, token, "read", "air")


def test_a_token_ends_when_it_expires_or_is_revoked_at_once_and_in_every_process(
    access: Access, empty: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    access.grant("alice", "viewer", "*", **WHO)
    first, second = access.issue("alice", days=1, **WHO), access.issue("alice", days=30, **WHO)
    elsewhere = Access(registry(empty, s3=servers.s3).store)
    assert elsewhere.authorise(second, "read", "air").user == "alice"
    access.withdraw(second.split("_")[1], **WHO)
    with pytest.raises(SignInError, match="revoked"):
        elsewhere.authorise(second, "read", "air")
    assert elsewhere.authorise(first, "read", "air").token == first.split("_")[1]
    monkeypatch.setattr("adin.models.access._clock", lambda: datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(SignInError, match="expired"):
        elsewhere.authorise(first, "read", "air")


def test_a_wrong_token_is_refused_whatever_is_wrong_with_it(access: Access) -> None:
    access.grant("alice", "admin", "*", **WHO)
    token = access.issue("alice", **WHO)
    public = token.split("_")[1]
    other = access.issue("alice", **WHO)
    mixed = f"adin_{public}_{other.split('_', 2)[2]}"
    for wrong in ("", "x", token[:-1], token + "x", f"adin_{'0' * 12}_{'A' * 43}", mixed, token.upper()):
        with pytest.raises(SignInError):
            access.authorise(wrong, "read", "air")
    assert len(access.denials()) == 7
    assert {denial.reason for denial in access.denials()} == {"the token is missing or wrong"}


def test_strangers_cannot_fill_the_store_with_records_of_their_refusals(
    access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adin.models.access.STRANGERS", 3)
    access.grant("alice", "viewer", "air", **WHO)
    known = access.issue("alice", **WHO)
    for n in range(9):
        assert not allowed(access, f"adin_{n:012x}_{'x' * 43}", "read", "air")
    assert not allowed(access, known, "promote", "air")
    assert [denial.subject for denial in access.denials()] == ["", "", "", "alice"]


def test_a_token_is_shown_once_and_found_nowhere(
    access: Access, empty: Connection, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    access.grant("alice", "viewer", "*", **WHO)
    token = access.issue("alice", **WHO)
    secret = token.split("_", 2)[2]
    assert allowed(access, token, "read", "air")
    assert not allowed(access, token, "promote", "air")
    stored = access._store.documents(".access") + access._store.documents(".denied")
    assert len(stored) == 3
    assert secret not in "".join(stored) + caplog.text + repr(access.tokens())
    assert "denied" in caplog.text


def test_every_change_is_in_the_log_and_one_that_changes_nothing_is_not(access: Access) -> None:
    for _ in range(2):
        access.grant("alice", "viewer", "air", **WHO)
        access.join("team:risk", "alice", **WHO)
    token = access.issue("alice", **WHO).split("_")[1]
    access.revoke("alice", "viewer", "air", **WHO)
    access.leave("team:risk", "alice", **WHO)
    for _ in range(2):
        access.withdraw(token, **WHO)
    events = [change.event for change in access.log()]
    assert events == ["grant", "join", "token", "revoke", "leave", "revoke_token"]
    assert {(change.actor, change.reason) for change in access.log()} == {("root", "test")}
    for take in (
        lambda: access.revoke("alice", "viewer", "air", **WHO),
        lambda: access.leave("team:risk", "alice", **WHO),
        lambda: access.withdraw("nothing", **WHO),
    ):
        with pytest.raises(NotFoundError):
            take()


@pytest.mark.parametrize(
    "change",
    [
        lambda access: access.grant("alice", "king", "air", **WHO),
        lambda access: access.grant("al ice", "viewer", "air", **WHO),
        lambda access: access.grant("alice", "viewer", "a*b", **WHO),
        lambda access: access.grant("alice", "viewer", "", **WHO),
        lambda access: access.join("risk", "alice", **WHO),
        lambda access: access.join("team:risk", "team:other", **WHO),
        lambda access: access.issue("team:risk", **WHO),
        lambda access: access.issue("alice", days=0, **WHO),
        lambda access: access.issue("alice", days=400, **WHO),
        lambda access: access.issue("alice", role="king", **WHO),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(access: Access, change: Any) -> None:
    with pytest.raises(ConfigError):
        change(access)
    assert access.log() == []


def _granter(n: int, barrier: Any, queue: Any, conn: Connection, s3: Connection) -> None:
    access = Access(registry(conn, s3=s3).store)
    access.log()
    barrier.wait(60)
    for i in range(5):
        access.grant(f"user-{n}-{i}", "viewer", "air", **WHO)
    queue.put(n)


def test_four_administrators_at_once_lose_no_change(access: Access, empty: Connection, servers: Servers) -> None:
    at_once(4, _granter, empty, servers.s3)
    assert set(access.grants()) == {f"user-{n}-{i}" for n in range(4) for i in range(5)}
    assert [change.seq for change in access.log()] == list(range(1, 21))


def test_a_changed_record_lets_nobody_pass(access: Access, empty: Connection, servers: Servers) -> None:
    access.grant("alice", "viewer", "air", **WHO)
    token = access.issue("alice", **WHO)
    if empty.extra["edition"] == "files":
        bucket = registry(empty, s3=servers.s3).bucket
        key = f".access/log/{1:020}.json"
        bucket.put(key, bucket.get(key).replace(b"viewer", b"admin"))
    else:
        change = "UPDATE log SET document = replace(document, 'viewer', 'admin') WHERE model = '.access'"
        execute(empty, f"SET session_replication_role = replica; {change}")
    with pytest.raises(DataError, match="tampered"):
        Access(registry(empty, s3=servers.s3).store).authorise(token, "read", "air")


def test_a_store_that_does_not_answer_lets_nobody_pass(
    access: Access, empty: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from adin.settings import settings

    access.grant("alice", "viewer", "air", **WHO)
    token = access.issue("alice", **WHO)
    monkeypatch.setenv("ADIN_REGISTRY_PATIENCE", "1")
    settings.cache_clear()
    nowhere = {"host": "127.0.0.1", "port": 1}
    down = registry(replace(empty, **nowhere), s3=replace(servers.s3, **nowhere))
    try:
        with pytest.raises(ServiceError):
            Access(down.store).authorise(token, "read", "air")
    finally:
        settings.cache_clear()


def test_the_commands_give_and_take(
    access: Access, empty: Connection, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIN_CONN_AMVERSION", empty.uri)
    monkeypatch.setenv("ADIN_CONN_S3", servers.s3.uri)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["access", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    run("grant", "team:risk", "viewer", "air_*")
    run("join", "team:risk", "alice")
    token = json.loads(run("token", "alice", "--role", "viewer", "--days", "2", "--json"))["token"]
    assert allowed(access, token, "read", "air_b")
    shown = json.loads(run("list", "--json"))
    assert shown["roles"] == [{"subject": "team:risk", "role": "viewer", "models": "air_*"}]
    assert shown["teams"] == {"team:risk": "alice"}
    assert [(each["user"], each["revoked"]) for each in shown["tokens"]] == [("alice", False)]
    run("revoke-token", token.split("_")[1], "--reason", "lost laptop")
    assert not allowed(access, token, "read", "air_b")
    run("leave", "team:risk", "alice")
    run("revoke", "team:risk", "viewer", "air_*")
    assert [each["event"] for each in json.loads(run("log", "--json"))][-3:] == ["revoke_token", "leave", "revoke"]
    (denied,) = json.loads(run("log", "--denied", "--json"))
    assert denied["token"] == token.split("_")[1]
    assert token.split("_", 2)[2] not in run("list", "--json") + run("log", "--json") + run("list") + run("log")
