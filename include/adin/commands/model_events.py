"""Those who are told what happens to models: webhooks, and Airflow's assets."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Annotated

import typer

from adin.commands import output
from adin.models import events, registry

app = typer.Typer(no_args_is_help=True, help="Webhooks, and events of Airflow's assets.")


@app.command("status", epilog="Example: adin model events status")
def status(json: output.Json = False) -> None:
    """Show how far each receiver is; a new one begins with what happens from now on."""
    models = registry()
    found = [events.status(models, each) for each in events.receivers()]
    if json:
        return output.emit([asdict(each) for each in found])
    return output.table(["receiver", "entries to send"], [(each.webhook, each.behind) for each in found])


@app.command("deliver", epilog="Example: adin model events deliver --follow")
def deliver(
    follow: Annotated[bool, typer.Option(help="Go on until stopped, as the alert service does.")] = False,
    json: output.Json = False,
) -> None:
    """Send each receiver what it has not taken yet."""
    deliverer = events.Deliverer(registry(), events.receivers())
    if follow:
        return deliverer.follow(threading.Event())
    found = deliverer.once()
    if json:
        return output.emit([asdict(each) for each in found])
    return output.table(["receiver", "sent", "failure"], [(each.webhook, each.sent, each.failure) for each in found])
