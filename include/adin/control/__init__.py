"""Control by hand: continuous training, freeze, rollback, and making serving agree with the log."""

from adin.control.ct import Status, resume, status, stop
from adin.control.reconcile import reconcile
from adin.control.rollback import Plan, freeze, plan, submit, unfreeze

__all__ = ["Plan", "Status", "freeze", "plan", "reconcile", "resume", "status", "stop", "submit", "unfreeze"]
