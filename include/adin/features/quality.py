"""Data quality: pandera schemas compiled to SQL, so that one aggregate query checks a whole table.

The SQL is what Spark and ClickHouse have in common. Rules of one column also judge Arrow columns, for rows that are
pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adin.errors import ConfigError

#: Keys shown for a broken rule.
_SAMPLES = 5


@dataclass(frozen=True)
class Rule:
    """One thing that must hold for every row.

    :param name: what is shown when it does not.
    :param broken: SQL condition true for a row that breaks it; empty for a joint uniqueness rule.
    :param unique: columns which together name a row.
    :param column: the one column it is about, and :param breaks: the same condition over its Arrow values.
    """

    name: str
    broken: str = ""
    unique: tuple[str, ...] = ()
    column: str = ""
    breaks: Callable[[Any], Any] | None = field(default=None, compare=False, repr=False)

    @property
    def count(self) -> str:
        """Return the SQL aggregate that counts the rows breaking the rule."""
        if self.unique:
            return f"count(*) - count(DISTINCT {', '.join(self.unique)})"
        return f"sum(CASE WHEN {self.broken} THEN 1 ELSE 0 END)"


def compile_schema(schema: Any) -> list[Rule]:
    """Return the rules of a pandera schema.

    :param schema: ``pandera.DataFrameSchema``.
    :raises ConfigError: something in it has no SQL form; a rule that is not checked must not look as if it was.
    """
    rules = []
    for what, given in (
        ("checks of the whole frame", schema.checks),
        ("strict", schema.strict),
        ("index", schema.index),
    ):
        if given:
            raise ConfigError(
                f"{what.capitalize()} of a schema have no SQL form.", "Write checks of columns, or unique."
            )
    for name, column in schema.columns.items():
        if column.regex:
            raise ConfigError(f"Column {name} is a pattern, which has no SQL form.", "Name each column.")
        if column.unique:
            rules.append(Rule(f"{name} not unique", unique=(name,)))
        if not column.nullable:
            rules.append(
                Rule(f"{name} is null", f"{name} IS NULL", column=name, breaks=lambda values: values.is_null())
            )
        rules += [_check(name, check) for check in column.checks]
    if schema.unique:
        columns = tuple([schema.unique] if isinstance(schema.unique, str) else schema.unique)
        rules.append(Rule(f"{', '.join(columns)} not unique", unique=columns))
    return rules


def query(table: str, rules: Sequence[Rule], keys: Sequence[str], also: Mapping[str, str] | None = None) -> str:
    """Return one query: rows and violations of each rule per day, and the least and greatest key that breaks it.

    :param keys: columns shown for a row that breaks a rule.
    :param also: further aggregates by name.
    """
    parts = [f"{aggregate} AS {name}" for name, aggregate in (also or {}).items()]
    for number, rule in enumerate(rules):
        parts.append(f"{rule.count} AS broken_{number}")
        if rule.broken:
            sample = f"CASE WHEN {rule.broken} THEN {_key(keys)} END"
            parts += [f"min({sample}) AS least_{number}", f"max({sample}) AS greatest_{number}"]
    columns = ", ".join(["day", "count(*) AS rows", *parts])
    return f"SELECT {columns} FROM {table} GROUP BY day"  # noqa: S608 - made from our own schema files


def repeated(table: str, rule: Rule) -> str:
    """Return a query for some keys that break a uniqueness rule; asked only when there are any."""
    columns = ", ".join(rule.unique)
    return (
        f"SELECT DISTINCT sample FROM (SELECT {_key(rule.unique)} AS sample FROM {table} "  # noqa: S608 - as above
        f"GROUP BY {columns} HAVING count(*) > 1) AS twice ORDER BY sample LIMIT {_SAMPLES}"
    )


def violations(rules: Sequence[Rule], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the broken rules from the rows of :func:`query`: rule, rows, days and sample keys."""
    found = []
    for number, rule in enumerate(rules):
        broken = [row for row in rows if row[f"broken_{number}"]]
        if broken:
            samples = {row.get(f"{end}_{number}") for row in broken for end in ("least", "greatest")} - {None}
            found.append(
                {
                    "rule": rule.name,
                    "rows": sum(row[f"broken_{number}"] for row in broken),
                    "days": sorted(str(row["day"]) for row in broken)[:5],
                    "sample": sorted(samples, key=str)[:_SAMPLES],
                }
            )
    return found


def _check(column: str, check: Any) -> Rule:
    import pyarrow.compute as pc

    given: dict[str, Any] = check.statistics or {}
    low, high, allowed = (given.get(name) for name in ("min_value", "max_value", "allowed_values"))
    below, sign = (pc.less, "<") if given.get("include_min", True) else (pc.less_equal, "<=")
    above, other = (pc.greater, ">") if given.get("include_max", True) else (pc.greater_equal, ">=")
    makers: dict[str, Callable[[], tuple[str, str, Callable[[Any], Any]]]] = {
        "in_range": lambda: (
            f"{column} {sign} {low} OR {column} {other} {high}",
            f"outside {low} .. {high}",
            lambda values: pc.or_(below(values, low), above(values, high)),
        ),
        "greater_than_or_equal_to": lambda: (f"{column} < {low}", f"below {low}", lambda values: pc.less(values, low)),
        "greater_than": lambda: (f"{column} <= {low}", f"not above {low}", lambda values: pc.less_equal(values, low)),
        "less_than_or_equal_to": lambda: (
            f"{column} > {high}",
            f"above {high}",
            lambda values: pc.greater(values, high),
        ),
        "less_than": lambda: (
            f"{column} >= {high}",
            f"not below {high}",
            lambda values: pc.greater_equal(values, high),
        ),
        "isin": lambda: (
            f"{column} NOT IN ({', '.join(_literal(value) for value in allowed or ())})",
            f"not one of {', '.join(str(value) for value in allowed or ())}",
            lambda values: pc.and_(values.is_valid(), pc.invert(pc.is_in(values, _values(allowed, values.type)))),
        ),
    }
    if check.name not in makers:
        raise ConfigError(f"Check {check.name} of column {column} has no SQL form.", f"Use {', '.join(makers)}.")
    broken, name, breaks = makers[check.name]()
    return Rule(f"{column} {name}", f"({column} IS NOT NULL AND ({broken}))", column=column, breaks=breaks)


def _values(allowed: Any, kind: Any) -> Any:
    import pyarrow as pa

    return pa.array(list(allowed)).cast(kind)


def _key(names: Sequence[str]) -> str:
    """Return SQL for the columns as one text."""
    # concat makes text of anything in both engines; their names for the type differ
    return "concat(" + ", '|', ".join(f"coalesce(concat({name}, ''), 'null')" for name in names) + ", '')"


def _literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str) else str(value)
