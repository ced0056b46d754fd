"""Drift: what of the data, its labels and a model's losses is no longer as it was when the model learned."""

from adin.drift.alarms import Alarm, active
from adin.drift.engine import Outcome, Source
from adin.drift.service import between, check, history, result, status

__all__ = ["Alarm", "Outcome", "Source", "active", "between", "check", "history", "result", "status"]
