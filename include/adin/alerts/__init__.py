"""Alerts: what is wrong, or has happened, told to an Alertmanager by a process of its own."""

from adin.alerts.alert import Alert, Found, Severity, Source

__all__ = ["Alert", "Found", "Severity", "Source"]
