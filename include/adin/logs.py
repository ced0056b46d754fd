"""Log lines of Adin's own processes: one JSON object a line on stdout, the same fields everywhere, no secrets.

Nothing is sampled: each event is logged once, where it happens. Requests for predictions are counted, not logged.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from adin.settings import settings

#: Fields a line may have beside time, level, service, logger and message; given as ``extra``.
#: ``happened`` becomes the field ``event``: under that name Airflow's logging would take it for the message.
FIELDS = (
    "happened", "dag", "run", "started_by", "task", "problem", "model", "version", "dataset", "request_id", "actor",
    "status",
)  # fmt: skip
_MASK = "***"
_SECRETS = [
    (re.compile(r"(://[^\s/:@]*:)[^\s@/]+(?=@)"), rf"\1{_MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"), rf"\1\2{_MASK}"),
    (re.compile(r"\badin_[0-9a-f]{12}_[\w-]{20,}"), f"adin_{_MASK}"),
    (
        re.compile(
            r"""(?i)(\b[\w-]*(?:password|passwd|secret|token|api_?key)[\w-]*["']?\s*[=:]\s*["']?)[^\s"',;&}]+"""
        ),
        rf"\1{_MASK}",
    ),
]


def set_up(service: str, level: int = logging.INFO) -> None:
    """Let this process log to stdout in the form of ``settings().log_format``.

    :param service: name of the process in every line.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(service) if settings().log_format == "json" else Text(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def masked(text: str) -> str:
    """Return a text without passwords, tokens and keys."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def facts(record: logging.LogRecord, service: str) -> dict[str, Any]:
    """Return a line's fields; those that do not apply are left out."""
    given = {name: value for name, value in vars(record).items() if name in FIELDS}
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "service": service,
        "logger": record.name,
        "message": masked(record.getMessage()),
    }
    for name, value in given.items():
        line["event" if name == "happened" else name] = masked(value) if isinstance(value, str) else value
    if record.exc_info:
        line["exception"] = masked(logging.Formatter().formatException(record.exc_info))
    return line


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(facts(record, self._service), default=str, ensure_ascii=False)


class Text(logging.Formatter):
    """The same for people."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the exception's lines behind it."""
        line = facts(record, self._service)
        head = f"{line.pop('time')} {line.pop('level').upper()} {line.pop('logger')} {line.pop('message')}"
        exception, _ = line.pop("exception", ""), line.pop("service")
        told = " ".join(f"{name}={value}" for name, value in line.items())
        return "\n".join(part for part in (f"{head} {told}".rstrip(), exception) if part)
