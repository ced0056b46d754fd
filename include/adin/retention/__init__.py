"""Garbage collection in two phases: what nothing refers to is marked, and deleted if it still is garbage later.

A collector knows one kind of thing. Marks are a note in AMVersion's store, so that a plan, a run that was killed and
the next run agree on what has been waiting since when.
"""

from adin.retention.every import collectors, registry_collectors
from adin.retention.phases import Collector, Item, Planned, collect, plan

__all__ = ["Collector", "Item", "Planned", "collect", "collectors", "plan", "registry_collectors"]
