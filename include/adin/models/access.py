"""Who may do what with which model or feature view, for callers who are not the platform itself.

Users get roles on a model, on a view (``view:origin_2h``) or on all whose names begin alike, themselves or through a
team; they sign in with tokens. Every change is a link of the hash chain ``.access``, every denial a record of
``.denied``. The SDK inside the platform works with the store's own credentials and is not asked:
:meth:`Access.authorise` stands where callers come in.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from uuid import uuid4

from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError, RefusedError, SignInError
from adin.models.doctor import ensure_safe
from adin.models.record import Record, linked
from adin.models.registry import waits
from adin.models.store import Store
from adin.settings import settings

log = logging.getLogger(__name__)

Role = Literal["viewer", "trainer", "approver", "pusher", "admin"]
Action = Literal[
    "read", "download", "register", "validate", "hold", "challenge", "reject", "alias", "promote", "retire", "rollback",
    "freeze", "unfreeze", "ct", "export", "import", "gc", "access", "push",
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)
ACTIONS: tuple[Action, ...] = get_args(Action)

_VIEWER: frozenset[Action] = frozenset({"read", "download"})
#: What each role may do. Who trains does not approve: somebody who shall do both is given both.
MAY: dict[Role, frozenset[Action]] = {
    "viewer": _VIEWER,
    "trainer": _VIEWER | {"register", "validate", "hold", "challenge", "reject", "alias"},
    "approver": _VIEWER | {"promote", "retire", "rollback", "freeze", "unfreeze", "ct"},
    "pusher": frozenset({"push"}),
    "admin": frozenset(ACTIONS),
}

CHANGES, DENIALS = ".access", ".denied"
#: Refusals a minute, of callers nobody knows, that a process records; more are only in its log.
STRANGERS = 60
_TEAM = "team:"
_SUBJECT = re.compile(r"(team:)?[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
#: A feature view is named with a prefix, so that no role on a model reaches a view that happens to be called like it.
VIEW = "view:"
_SCOPE = re.compile(rf"\*|{VIEW}\*|({VIEW})?[a-z][a-z0-9_-]{{0,99}}\*?")
_TOKEN = re.compile(r"adin_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Change(Record):
    """One change of who may do what.

    :param subject: user, or ``team:`` and a team's name.
    :param role: role given or taken away; of a token, the most it may be used for, empty for all its user may.
    :param scope: model, or the beginning of names and ``*``.
    :param member: user who joins or leaves a team.
    :param token: public part of a token, and :param digest: SHA-256 of its secret part.
    :param expires: first instant at which the token is worth nothing.
    """

    event: Literal["grant", "revoke", "join", "leave", "token", "revoke_token"]
    subject: str
    role: Role | Literal[""] = ""
    scope: str = ""
    member: str = ""
    token: str = ""
    digest: str = ""
    expires: datetime | None = None


class Denial(Record):
    """Something that was asked for and refused.

    :param subject: user, empty where the token told none.
    :param token: public part of the token.
    """

    event: Literal["denied"] = "denied"
    subject: str = ""
    token: str = ""
    action: str = ""
    scope: str = ""


@dataclass(frozen=True)
class Grant:
    """A role on a model, or on all models whose names begin with what stands before a ``*``."""

    role: Role
    scope: str


@dataclass(frozen=True)
class Token:
    """A token without its secret.

    :param id: its public part, and :param digest: SHA-256 of the other.
    :param role: the most it may be used for, empty for all its user may.
    """

    id: str
    user: str
    role: Role | Literal[""]
    scope: str
    created: datetime
    expires: datetime
    digest: str = field(repr=False)
    revoked: bool = False


@dataclass(frozen=True)
class Identity:
    """Who signed in, and with which token."""

    user: str
    token: str


@dataclass
class _Now:
    """What the changes add up to."""

    grants: dict[str, set[Grant]] = field(default_factory=dict)
    teams: dict[str, set[str]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    seq: int = 0
    head: str = ""


@dataclass
class _Limit:
    """So many things a minute, counted in this process."""

    began: float = 0.0
    count: int = 0

    def allows(self) -> bool:
        """Count one more, and tell whether it is within the limit."""
        now = time.monotonic()
        if now - self.began >= 60:
            self.began, self.count = now, 0
        self.count += 1
        return self.count <= STRANGERS


class Access:
    """The users of a registry, their roles and tokens.

    :param store: the registry's own.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now = _Now()
        self._log: list[Change] = []
        self._reading = threading.Lock()
        self._strangers = _Limit()

    # --- asking

    def authorise(self, token: str, action: Action, model: str) -> Identity:
        """Return who asks, if the token and its user's roles allow the action on the model.

        A change takes effect with the next call. A store that does not answer lets nobody pass.

        :param model: the model, or the scope of a grant; ``*`` for what concerns all models.
        :raises SignInError: the token is missing, wrong, expired or revoked.
        :raises RefusedError: it does not allow that. Both are recorded.
        """
        now = self._current()
        known = self._signed_in(now, token, action, model)
        if why := _refusal(now, known, action, model):
            self._deny(known.user, known.id, action, model, why)
            raise RefusedError(
                f"{known.user} may not {action} {model}: {why}.",
                "Ask an administrator for the role.",
                user=known.user,
                token=known.id,
            )
        return Identity(known.user, known.id)

    def sign_in(self, token: str) -> Identity:
        """Return who asks, whatever for; what they may is another question.

        :raises SignInError: the token is missing, wrong, expired or revoked. It is recorded.
        """
        known = self._signed_in(self._current(), token, "sign in", "*")
        return Identity(known.user, known.id)

    def may(self, token: str, action: Action, model: str) -> bool:
        """Tell whether a token allows an action, where nothing was asked for yet, such as in a list; not recorded."""
        now = self._current()
        known, why = _sign_in(now, token)
        return not why and known is not None and not _refusal(now, known, action, model)

    def deny(self, user: str, action: Action, model: str, why: str) -> None:
        """Record what was refused to somebody who signed in elsewhere, such as in Airflow."""
        self._deny(user, "", action, model, why)

    def grants(self) -> dict[str, set[Grant]]:
        """Return what users and teams were granted."""
        return {subject: set(each) for subject, each in self._current().grants.items() if each}

    def teams(self) -> dict[str, set[str]]:
        """Return the members of each team."""
        return {team: set(each) for team, each in self._current().teams.items() if each}

    def tokens(self) -> list[Token]:
        """Return all tokens ever given out, without their secrets."""
        return list(self._current().tokens.values())

    def log(self) -> list[Change]:
        """Return all changes, oldest first; :raises DataError: the chain was tampered with."""
        self._current()
        return list(self._log)

    def denials(self, since: datetime | None = None) -> list[Denial]:
        """Return what was refused, oldest first."""
        after = int(since.timestamp() * 1e9) if since else 0
        return [Denial.read(document) for document in self._store.documents(DENIALS, after, anew=True)]

    # --- changing

    def grant(self, subject: str, role: Role, scope: str, *, actor: str, reason: str) -> None:
        """Give a user or a team a role on a model, or on all whose names begin alike (``flights_*``, ``*``)."""
        self._change("grant", subject, actor, reason, role=_role(role), scope=scope)

    def revoke(self, subject: str, role: Role, scope: str, *, actor: str, reason: str) -> None:
        """Take a role away; :raises NotFoundError: it was not granted like that."""
        self._change("revoke", subject, actor, reason, role=_role(role), scope=scope)

    def join(self, team: str, member: str, *, actor: str, reason: str) -> None:
        """Let a user have all that is granted to a team (``team:risk``)."""
        self._change("join", team, actor, reason, member=member)

    def leave(self, team: str, member: str, *, actor: str, reason: str) -> None:
        """Take a user out of a team; :raises NotFoundError: the user is not in it."""
        self._change("leave", team, actor, reason, member=member)

    def issue(
        self,
        user: str,
        *,
        actor: str,
        reason: str,
        role: Role | Literal[""] = "",
        scope: str = "*",
        days: float | None = None,
        token: str = "",
    ) -> str:
        """Return a new token; it is shown here and never again.

        Its secret part has 256 random bits and is kept as a SHA-256. A slow hash such as argon2 guards what people can
        guess; nobody guesses this, and it is checked at every request.

        :param role: the most it may be used for; default all its user may.
        :param days: how long it is good for; default ``settings().token_days``.
        :param token: one made by :func:`new_token` before; it is good anew from now on. Default a new one.
        """
        days = settings().token_days if days is None else days
        if not 0 < days <= _LONGEST:
            raise ConfigError(f"A token cannot be good for {days} days.", f"Give more than 0 and at most {_LONGEST}.")
        parts = _TOKEN.fullmatch(token or new_token())
        if parts is None:
            raise ConfigError("What was given as a token is none.", "Let one be made.")
        public, secret = parts.groups()
        self._change(
            "token",
            user,
            actor,
            reason,
            role=_role(role) if role else "",
            scope=scope,
            token=public,
            digest=hashlib.sha256(secret.encode()).hexdigest(),
            expires=_clock() + timedelta(days=days),
        )
        return f"adin_{public}_{secret}"

    def withdraw(self, token: str, *, actor: str, reason: str) -> None:
        """Make a token worthless at once.

        :param token: its public part, as :meth:`tokens` shows it.
        :raises NotFoundError: there is no such token.
        """
        known = self._current().tokens.get(token)
        if known is None:
            raise NotFoundError(f"No token {token!r}.", "See `adin model access list`.")
        self._change("revoke_token", known.user, actor, reason, token=token)

    # --- inside

    def _signed_in(self, now: _Now, token: str, action: str, model: str) -> Token:
        known, why = _sign_in(now, token)
        if why or known is None:
            found = _TOKEN.fullmatch(token or "")
            self._deny("", found[1] if found else "", action, model, why)
            public = known.id if known else ""
            raise SignInError(f"Not signed in: {why}.", "Ask an administrator for a token.", token=public)
        return known

    def _current(self) -> _Now:
        with self._reading:
            documents = self._store.documents(CHANGES, self._now.seq)
            for change in linked(map(Change.read, documents), CHANGES, self._now.seq, self._now.head):
                _apply(self._now, change)
                self._now.seq, self._now.head = change.seq, change.hash
                self._log.append(change)
            return self._now

    def _change(self, event: str, subject: str, actor: str, reason: str, **more: Any) -> None:
        _check(event, subject, more)
        ensure_safe(self._store)
        for wait in waits():
            now = self._current()
            if _stands(now, event, subject, more):
                return
            change = Change.sealed(
                model=CHANGES,
                seq=now.seq + 1,
                id=uuid4().hex,
                event=event,
                subject=subject,
                actor=actor,
                time=_clock(),
                reason=reason,
                previous=now.head,
                **more,
            )
            written = self._store.append([change], {})
            # a number that is taken may be taken by this very change, whose reply got lost
            if written or change.id in {each.id for each in self.log()[change.seq - 1 :]}:
                told = {name: value for name, value in more.items() if value and name != "digest"}
                log.info(
                    "access: %s %s %s by %s: %s",
                    event,
                    subject,
                    told,
                    actor,
                    reason,
                    extra={"happened": event, "actor": actor},
                )
                return
            time.sleep(wait)
        raise ConflictError("Others change who may do what all the time.", "Run it again.")

    def _deny(self, user: str, token: str, action: str, model: str, why: str) -> None:
        asked = {"subject": user, "token": token, "action": str(action)[:50], "scope": str(model)[:100]}
        log.warning("denied: %s %s", why, asked, extra={"happened": "denied", "actor": user, "model": str(model)[:100]})
        if not user and not self._strangers.allows():
            return  # whoever has no token at all must not be able to fill the store
        facts = {"model": DENIALS, "actor": user or "unknown", "time": _clock(), "reason": why, **asked}
        try:
            # numbered by time: denials are many, and need not wait for each other
            while not self._store.append([Denial.sealed(seq=time.time_ns(), id=uuid4().hex, **facts)], {}):
                pass
        except AdinError as error:
            log.error("the denial could not be recorded: %s", error)


_LONGEST = 366


def new_token() -> str:
    """Return a token that nobody knows yet: a public part, and 256 random bits."""
    return f"adin_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def _clock() -> datetime:
    return datetime.now(UTC)


def _role(role: str) -> str:
    if role not in ROLES:
        raise ConfigError(f"No role {role!r}.", f"Roles: {', '.join(ROLES)}.")
    return role


def _check(event: str, subject: str, more: dict[str, Any]) -> None:
    users = [subject] if event in ("token", "revoke_token") else [more["member"]] if "member" in more else []
    if not _SUBJECT.fullmatch(subject) or any(not _SUBJECT.fullmatch(u) or u.startswith(_TEAM) for u in users):
        wrong = next((user for user in users if user.startswith(_TEAM) or not _SUBJECT.fullmatch(user)), subject)
        raise ConfigError(f"{wrong!r} cannot be the name of a user here.", "Use letters, digits and ._@-.")
    if event in ("join", "leave") and not subject.startswith(_TEAM):
        raise ConfigError(f"{subject!r} is no team.", f"Write {_TEAM}{subject}.")
    if "scope" in more and not _SCOPE.fullmatch(more["scope"]):
        raise ConfigError(
            f"{more['scope']!r} names no models.",
            f"Write a model's name, {VIEW} and a view's name, or the beginning of names and *.",
        )


def _stands(now: _Now, event: str, subject: str, more: dict[str, Any]) -> bool:
    """Return whether a change would change nothing; :raises NotFoundError: there is nothing to take away."""
    if event in ("grant", "revoke"):
        there = Grant(more["role"], more["scope"]) in now.grants.get(subject, set())
    elif event in ("join", "leave"):
        there = more["member"] in now.teams.get(subject, set())
    else:
        return event == "revoke_token" and now.tokens[more["token"]].revoked
    if event in ("revoke", "leave") and not there:
        what = f"{more['role']} on {more['scope']}" if event == "revoke" else f"the member {more['member']}"
        raise NotFoundError(f"{subject} does not have {what}.", "See `adin model access list`.")
    return there and event in ("grant", "join")


def _apply(now: _Now, change: Change) -> None:
    subject, token = change.subject, change.token
    if change.event in ("grant", "revoke") and change.role:
        mine = now.grants.setdefault(subject, set())
        (mine.add if change.event == "grant" else mine.discard)(Grant(change.role, change.scope))
    elif change.event in ("join", "leave"):
        members = now.teams.setdefault(subject, set())
        (members.add if change.event == "join" else members.discard)(change.member)
    elif change.event == "token" and change.expires:
        now.tokens[token] = Token(
            token, subject, change.role, change.scope, change.time, change.expires, digest=change.digest
        )
    elif change.event == "revoke_token":
        old = now.tokens[token]
        now.tokens[token] = Token(
            token, old.user, old.role, old.scope, old.created, old.expires, digest=old.digest, revoked=True
        )


def _sign_in(now: _Now, token: str) -> tuple[Token | None, str]:
    """Return the token that was shown, if there is such a one, and why it is worth nothing, empty if it is good."""
    found = _TOKEN.fullmatch(token or "")
    known = now.tokens.get(found[1]) if found else None
    return known, _no_sign_in(known, found[2] if found else "")


def _refusal(now: _Now, token: Token, action: Action, model: str) -> str:
    """Return why a token does not allow an action, empty if it does."""
    if not (_covers(token.scope, model) and action in (MAY[token.role] if token.role else ACTIONS)):
        return f"the token is good for {token.role or 'all roles'} on {token.scope} only"
    if not any(action in MAY[grant.role] and _covers(grant.scope, model) for grant in _grants(now, token.user)):
        return f"{token.user} has no role for that"
    return ""


def _no_sign_in(token: Token | None, secret: str) -> str:
    """Return why a token is worth nothing, empty if it is good."""
    given = hashlib.sha256(secret.encode()).hexdigest()
    if token is None or not hmac.compare_digest(given, token.digest):
        return "the token is missing or wrong"
    if token.revoked:
        return "the token was revoked"
    return "the token has expired" if _clock() >= token.expires else ""


def _grants(now: _Now, user: str) -> set[Grant]:
    teams = [team for team, members in now.teams.items() if user in members]
    return set().union(*(now.grants.get(subject, set()) for subject in (user, *teams)))


def _covers(scope: str, model: str) -> bool:
    if scope == "*" or not scope.endswith("*"):
        return scope in ("*", model)
    # v* means models, not all views
    return model.startswith(scope[:-1]) and model.startswith(VIEW) == scope.startswith(VIEW)
