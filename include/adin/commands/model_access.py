"""Who may do what with which model: roles, teams, tokens, and the record of changes and denials."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from adin.commands import output
from adin.models import registry
from adin.models.access import Access, Role

app = typer.Typer(no_args_is_help=True, help="Roles, teams and tokens.")

Subject = Annotated[str, typer.Argument(help="User, or team:NAME.")]
Given = Annotated[Role, typer.Argument()]
Team = Annotated[str, typer.Argument(help="team:NAME.")]
User = Annotated[str, typer.Argument()]
Scope = Annotated[str, typer.Argument(help="Model, or the beginning of names and *.")]
Reason = Annotated[str, typer.Option(help="Why; stands in the log.")]


@app.command("grant", epilog="Example: adin model access grant team:risk viewer 'flights_*'")
def grant(subject: Subject, role: Given, models: Scope, reason: Reason = "asked for") -> None:
    """Give a user or a team a role on models."""
    _access().grant(subject, role, models, actor=output.actor(), reason=reason)


@app.command("revoke", epilog="Example: adin model access revoke team:risk viewer 'flights_*'")
def revoke(subject: Subject, role: Given, models: Scope, reason: Reason = "no longer needed") -> None:
    """Take a role away."""
    _access().revoke(subject, role, models, actor=output.actor(), reason=reason)


@app.command("join", epilog="Example: adin model access join team:risk alice")
def join(
    team: Annotated[str, typer.Argument()], user: Annotated[str, typer.Argument()], reason: Reason = "new"
) -> None:
    """Put a user into a team."""
    _access().join(team, user, actor=output.actor(), reason=reason)


@app.command("leave", epilog="Example: adin model access leave team:risk alice")
def leave(
    team: Annotated[str, typer.Argument()], user: Annotated[str, typer.Argument()], reason: Reason = "left"
) -> None:
    """Take a user out of a team."""
    _access().leave(team, user, actor=output.actor(), reason=reason)


@app.command("token", epilog="Example: adin model access token alice --role viewer --models 'flights_*' --days 30")
def token(
    user: User,
    role: Annotated[Role | None, typer.Option(help="The most it may be used for; default all the user may.")] = None,
    models: Annotated[str, typer.Option(help="Models it is good for.")] = "*",
    days: Annotated[float | None, typer.Option(help="Days it is good for; default the setting token_days.")] = None,
    reason: Reason = "asked for",
    json: output.Json = False,
) -> None:
    """Make a token and show it, this once."""
    made = _access().issue(
        user,
        role=role or "",
        scope=models,
        days=days,
        actor=output.actor(),
        reason=reason,
    )
    return output.emit({"token": made}) if json else output.facts({"token": made, "": "It is not shown again."})


@app.command("revoke-token", epilog="Example: adin model access revoke-token 3f2a9c81d0b4")
def revoke_token(
    token: Annotated[str, typer.Argument(help="Its public part, the second word of it.")], reason: Reason = "revoked"
) -> None:
    """Make a token worthless at once."""
    _access().withdraw(token, actor=output.actor(), reason=reason)


@app.command("list", epilog="Example: adin model access list --json")
def list_(json: output.Json = False) -> None:
    """List roles, teams and tokens."""
    access = _access()
    roles = [(subject, g.role, g.scope) for subject, each in sorted(access.grants().items()) for g in each]
    teams = [(team, ", ".join(sorted(members))) for team, members in sorted(access.teams().items())]
    tokens = [{name: value for name, value in asdict(each).items() if name != "digest"} for each in access.tokens()]
    if json:
        found = [dict(zip(("subject", "role", "models"), each, strict=True)) for each in roles]
        return output.emit({"roles": found, "teams": access.teams() and dict(teams), "tokens": tokens})
    output.table(["subject", "role", "models"], roles)
    output.table(["team", "members"], teams)
    columns = ["id", "user", "role", "scope", "expires", "revoked"]
    return output.table(columns, [[each[column] for column in columns] for each in tokens])


@app.command("log", epilog="Example: adin model access log --denied")
def log(
    denied: Annotated[bool, typer.Option(help="What was refused, instead of what was changed.")] = False,
    json: output.Json = False,
) -> None:
    """Show every change of who may do what, or everything that was refused."""
    access = _access()
    if denied:
        return _show(access.denials(), ["time", "subject", "token", "action", "scope", "reason"], json)
    return _show(
        access.log(), ["time", "event", "subject", "role", "scope", "member", "token", "actor", "reason"], json
    )


def _show(records: list[Any], columns: list[str], json: bool) -> None:
    documents = [record.model_dump(mode="json", exclude={"digest"}) for record in records]
    if json:
        return output.emit(documents)
    return output.table(columns, [[each[column] for column in columns] for each in documents])


def _access() -> Access:
    return Access(registry().store)
