"""Lists as KFP gives them: ``filter``, ``sort_by``, ``page_size``, ``page_token``."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adin.errors import ConfigError
from adin.stack.kfp.store import FIELDS, Doc, Store

_COMPARE = {
    "EQUALS": "=",
    "NOT_EQUALS": "<>",
    "GREATER_THAN": ">",
    "GREATER_THAN_EQUALS": ">=",
    "LESS_THAN": "<",
    "LESS_THAN_EQUALS": "<=",
}
# the numbers of the Protobuf enumeration; kfp.Client sends them
_NUMBERS: dict[Any, str] = {
    1: "EQUALS",
    2: "NOT_EQUALS",
    3: "GREATER_THAN",
    5: "GREATER_THAN_EQUALS",
    6: "LESS_THAN",
    7: "LESS_THAN_EQUALS",
    8: "IN",
    9: "IS_SUBSTRING",
}
_VALUES = ("stringValue", "intValue", "longValue", "timestampValue", "stringValues", "intValues", "longValues")
_MAX_PAGE = 200


def listing(store: Store, kind: str, options: Mapping[str, str], fixed: Mapping[str, str]) -> Doc:
    """Return one page: ``{"items", "total_size", "next_page_token"}``.

    :param options: the request's query parameters. A page token carries the filter and order of its first page.
    :param fixed: conditions of the address itself, such as the experiment; empty values do not count.
    :raises ConfigError: a parameter cannot be read.
    """
    page = _read_token(options["page_token"]) if options.get("page_token") else {}
    terms = page.get("filter", options.get("filter", ""))
    sort_by = page.get("sort_by", options.get("sort_by", ""))
    where, values = _conditions(kind, terms)
    for field, value in fixed.items():
        if value:
            where.append(f"{field} = ?")
            values.append(value)
    total = store.count(kind, " AND ".join(where) or "TRUE", values)

    column, direction = _order(kind, sort_by)
    if "after" in page:
        where.append(f"({column}, seq) {'<' if direction == 'DESC' else '>'} (?, ?)")
        values += page["after"]
    size = _page_size(options.get("page_size", ""))
    rows = store.select(
        kind,
        " AND ".join(where) or "TRUE",
        values,
        order=f"{column} {direction}, seq {direction}",
        limit=size + 1,
    )
    token = ""
    if len(rows) > size:
        seq, last = rows[size - 1]
        key = seq if column == "seq" else last.get(_field(kind, sort_by.split()[0])) or ""
        token = _token({"filter": terms, "sort_by": sort_by, "after": [key, seq]})
    return {"items": [doc for _, doc in rows[:size]], "total_size": total, "next_page_token": token}


def timestamp(value: str) -> str:
    """Return an RFC 3339 time in the one form in which times are stored, so that text order is time order."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ConfigError(f"{value!r} is not an RFC 3339 time.") from None
    return stamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def stamp(moment: datetime) -> str:
    """Return a time as it is stored and sent."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _conditions(kind: str, text: str) -> tuple[list[str], list[Any]]:
    if not text:
        return [], []
    try:
        predicates = json.loads(text).get("predicates", [])
        parsed = [_condition(kind, _camel(predicate)) for predicate in predicates]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ConfigError(f"The filter cannot be read: {error}.", "Send a JSON Filter with predicates.") from error
    return [sql for sql, _ in parsed], [value for _, values in parsed for value in values]


def _condition(kind: str, predicate: Doc) -> tuple[str, list[Any]]:
    column = _column(_field(kind, str(predicate.get("key", ""))))
    operation = predicate.get("operation", predicate.get("op"))
    operation = _NUMBERS.get(operation, operation)
    name = next((name for name in _VALUES if name in predicate), None)
    if name is None:
        raise ConfigError(f"The predicate on {predicate.get('key')!r} has no value.")
    value = predicate[name]
    if operation == "IN":
        found = value["values"] if isinstance(value, dict) else value
        inside = f"{column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - the column is one of ours
        return inside, [json.dumps([str(one) for one in found])]
    value = timestamp(value) if name == "timestampValue" else str(value)
    if operation == "IS_SUBSTRING":
        return f"instr({column}, ?) > 0", [value]
    if operation not in _COMPARE:
        raise ConfigError(f"Unknown filter operation {operation!r}.", f"Known: {', '.join(_NUMBERS.values())}.")
    return f"{column} {_COMPARE[operation]} ?", [value]


def _camel(predicate: Mapping[str, Any]) -> Doc:
    def name(key: str) -> str:
        head, *rest = key.split("_")
        return head + "".join(part.capitalize() for part in rest)

    return {name(key): value for key, value in predicate.items() if value is not None}


def _field(kind: str, key: str) -> str:
    if key in ("run_id", "pipeline_version_id") or key == f"{kind.replace(' ', '_')}_id":
        return "id"
    # only pipelines and versions have a name besides the one shown
    return "display_name" if key == "name" and kind not in ("pipeline", "version") else key


def _column(key: str) -> str:
    if key in FIELDS:
        # display_name and state are always there, and indexed
        return key if key in ("display_name", "state") else f"coalesce({key}, '')"
    if key == "id":
        return key
    raise ConfigError(f"Cannot filter or sort by {key!r}.", f"Known: id, {', '.join(FIELDS)}.")


def _order(kind: str, sort_by: str) -> tuple[str, str]:
    if not sort_by.strip():
        return "seq", "ASC"
    field, _, direction = sort_by.strip().partition(" ")
    direction = direction.strip().upper() or "ASC"
    if direction not in ("ASC", "DESC"):
        raise ConfigError(f"Cannot sort by {sort_by!r}.", "Write `field` or `field desc`.")
    return _column(_field(kind, field)), direction


def _page_size(text: str) -> int:
    try:
        size = int(text or 0)
    except ValueError:
        size = -1
    if size < 0:
        raise ConfigError(f"page_size {text!r} is not a whole number from 0 on.")
    return min(size or 20, _MAX_PAGE)


def _token(page: Doc) -> str:
    return base64.urlsafe_b64encode(json.dumps(page).encode()).decode()


def _read_token(text: str) -> Doc:
    try:
        page = dict(json.loads(base64.urlsafe_b64decode(text)))
        (key, seq), texts = page["after"], (page["filter"], page["sort_by"])
        if isinstance(seq, int) and isinstance(key, int | str) and all(isinstance(each, str) for each in texts):
            return page
    except (ValueError, TypeError, KeyError):
        pass
    raise ConfigError("The page token cannot be read.", "Start again from the first page.")
