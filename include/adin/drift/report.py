"""What a check found as one page: what changed, since when, before and after; inline SVG, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from adin.promotion.report import document, svg

_WIDTH, _HEIGHT, _LEFT, _BELOW, _RIGHT = 720, 170, 52, 30, 8
_BEFORE, _AFTER, _OVER = "#57606a", "#0969da", "#b3261e"
#: Features drawn; the others are in the table.
_DRAWN = 12

#: Checks as people call them.
CHECKS = {
    "psi": "distribution (PSI)",
    "label_psi": "distribution of the label (PSI)",
    "loss": "rise of the loss",
    "nulls": "more nulls",
    "new_values": "new values",
    "out_of_range": "out of range",
    "missing_rows": "missing rows",
    "duplicates": "duplicate rows",
}


def page(result: Mapping[str, Any]) -> str:
    """Return the page of one check.

    :param result: as :func:`adin.drift.engine.check` keeps it.
    """
    reference, alarms = result["reference"], [each for each in result["findings"] if each["active"]]
    champion = "no champion yet" if reference["version"] is None else f"version {reference['version']}"
    title = f"{result['problem']}: {_many(len(alarms), 'alarm')}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Days from {_after(reference['last'])} to before {escape(result['until'])} of dataset "
        f"{escape(result['dataset'][:12])}, compared with {reference['rows']:,} rows that {escape(champion)} learned "
        f"from ({escape(reference['first'])} .. {escape(reference['last'])}). A window is "
        f"{_many(result['days'], 'day')}; an alarm needs {result['needed']} of the newest "
        f"{_many(result['policy']['windows'], 'window')} over its limit, each with {result['policy']['min_rows']} "
        "rows.</p>",
        "<h2>What changed</h2>",
        _alarms(alarms),
        *(timeline(each) for each in alarms),
        *_features(result["features"], {each["subject"] for each in alarms}, result["compared_from"]),
        *_model(result["model"]),
        "<h2>Every check</h2>",
        _findings(result["findings"]),
    ]
    return document(title, parts)


def event_page(found: Mapping[str, Any]) -> str:
    """Return the page of an analysis before and after an event.

    :param found: as :func:`adin.drift.engine.between` returns it.
    """
    before, after = (" to before ".join(found[side]) for side in ("before", "after"))
    title = f"{found['problem']}: before and after {found['after'][0]}"
    most = [each["feature"] for each in found["features"][:_DRAWN]]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(after)} ({found['rows'][1]:,} rows) compared with {escape(before)} ({found['rows'][0]:,} rows), "
        f"dataset {escape(found['dataset'][:12])}. The most changed feature comes first.</p>",
        *_features(found["features"], set(most), found["after"][0]),
        "<h2>Day by day, compared with the training</h2>",
        *(_line(f"{name}, PSI", found["daily"][name]["day"], found["daily"][name]["psi"], mark=found["after"][0])
          for name in most if name in found["daily"]),
        *_model(found["model"]),
    ]  # fmt: skip
    return document(title, parts)


def timeline(finding: Mapping[str, Any]) -> str:
    """Return the drawing of one check over its windows, with its limit."""
    return _line(
        f"{finding['subject']}: {CHECKS[finding['check']]}",
        finding["windows"],
        finding["values"],
        limit=finding["limit"],
        mark=finding["since"],
    )


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> str:
    if not alarms:
        return '<p class="yes">Nothing beyond what the reference itself varies.</p>'
    rows = "".join(
        f'<tr><td class="no">{escape(each["kind"])}</td><td>{escape(each["subject"])}</td>'
        f"<td>{CHECKS[each['check']]}</td><td>{_last(each):.4g}</td><td>{each['limit']:.4g}</td>"
        f"<td>{escape(each['since'])}</td></tr>"
        for each in alarms
    )
    head = "<tr><th>kind</th><th>of</th><th>check</th><th>value</th><th>limit</th><th>since</th></tr>"
    return f"<table>{head}{rows}</table>"


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td class="{"no" if each["active"] else "yes"}">{"alarm" if each["active"] else "quiet"}</td>'
        f"<td>{escape(each['kind'])}</td><td>{escape(each['subject'])}</td><td>{CHECKS[each['check']]}</td>"
        f"<td>{_number(_last(each))}</td><td>{each['limit']:.4g}</td></tr>"
        for each in findings
    )
    head = "<tr><th></th><th>kind</th><th>of</th><th>check</th><th>newest</th><th>limit</th></tr>"
    return f"<table>{head}{rows}</table>"


def _features(features: Sequence[Mapping[str, Any]], first: set[str], since: str) -> list[str]:
    if not features:
        return ["<p>No new rows.</p>"]
    ordered = sorted(features, key=lambda each: each["feature"] not in first)
    head = (
        "<tr><th>feature</th><th>PSI</th><th>Jensen-Shannon</th><th>KS</th><th>Wasserstein, in sigma</th><th>null</th>"
        "<th>new or out of range</th><th>range</th></tr>"
    )
    rows = "".join(
        f"<tr><td>{escape(each['feature'])}</td><td>{_number(each['psi'])}</td>"
        f"<td>{_number(each['jensen_shannon'])}</td>"
        f"<td>{_number(each.get('kolmogorov_smirnov'))}</td><td>{_number(each.get('wasserstein'))}</td>"
        f"<td>{' to '.join(map(_percent, each['nulls']))}</td><td>{_percent(each['strange'])}</td>"
        f"<td>{_range(each.get('range'))}</td></tr>"
        for each in ordered
    )
    drawn = [_bars(each) for each in ordered[:_DRAWN]]
    return [f"<h2>Features before and from {escape(since)} on</h2>", f"<table>{head}{rows}</table>", *drawn]


def _bars(feature: Mapping[str, Any]) -> str:
    """Return two bars a bin: grey before, blue after."""
    bins = [
        (name, before or 0.0, after or 0.0)
        for name, before, after in zip(feature["bins"], feature["before"], feature["after"], strict=True)
    ]
    high = max([share for _, *both in bins for share in both] + [1e-9])
    step, scale = (_WIDTH - _LEFT - _RIGHT) / len(bins), (_HEIGHT - _BELOW - 10) / high
    base, half = _HEIGHT - _BELOW, (_WIDTH - _LEFT - _RIGHT) / len(bins) * 0.42
    marks = "".join(
        f'<rect x="{_LEFT + n * step + side * half:.1f}" width="{half:.1f}" y="{base - share * scale:.1f}" '
        f'height="{share * scale:.1f}" fill="{colour}"><title>{escape(name)}, {when}: {share:.2%}</title></rect>'
        for n, (name, *both) in enumerate(bins)
        for side, (share, colour, when) in enumerate(zip(both, (_BEFORE, _AFTER), ("before", "after"), strict=True))
    )
    every = max(len(bins) // 9, 1)
    names = "".join(
        f'<text x="{_LEFT + (n + 0.42) * step:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(name.partition(' .. ')[0][:9])}</text>"
        for n, (name, *_) in enumerate(bins)
        if n % every == 0
    )
    top = f'<text x="{_LEFT - 6}" y="18" text-anchor="end">{high:.0%}</text>'
    title = f"{feature['feature']}: before (grey) and after (blue)"
    return f"<h3>{escape(title)}</h3>" + svg(marks + names + top, title, _HEIGHT)


def _line(
    title: str,
    days: Sequence[str],
    values: Sequence[float | None],
    *,
    limit: float | None = None,
    mark: str | None = None,
) -> str:
    """Return a line over days; what is over the limit is red, what is unknown is left out."""
    known = [(n, value) for n, value in enumerate(values) if value is not None]
    if not known:
        return f"<h3>{escape(title)}</h3><p>No window has enough rows.</p>"
    high, low = max([value for _, value in known] + [limit or 0.0]), min([value for _, value in known] + [0.0])
    span, base = (high - low) or 1.0, _HEIGHT - _BELOW
    step = (_WIDTH - _LEFT - _RIGHT - 8) / max(len(days) - 1, 1)

    def x(n: int) -> float:
        return _LEFT + 4 + n * step

    def y(value: float) -> float:
        return 10 + (high - value) / span * (base - 10)

    path = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in known)
    marks = f'<polyline points="{path}" fill="none" stroke="{_AFTER}" stroke-width="1.5"/>'
    marks += "".join(
        f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3" '
        f'style="fill:{_OVER if limit is not None and value > limit else _AFTER}">'
        f"<title>{escape(days[n])}: {value:.4g}</title></circle>"
        for n, value in known
    )
    if limit is not None:
        marks += (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" stroke="{_OVER}" '
            f'stroke-dasharray="4"><title>limit {limit:.4g}</title></line>'
        )
    if mark in days:
        at = x(list(days).index(str(mark)))
        marks += f'<line x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{base}" stroke="{_BEFORE}" stroke-dasharray="2"/>'
    every = max(len(days) // 7, 1)
    marks += "".join(
        f'<text x="{x(n):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(day[5:])}</text>'
        for n, day in enumerate(days)
        if n % every == 0
    )
    marks += "".join(
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in sorted({high, low})
    )
    return f"<h3>{escape(title)}</h3>" + svg(marks, title, _HEIGHT)


def _model(model: Mapping[str, Any]) -> list[str]:
    if model["champion"] is None:
        return ["<h2>The model</h2>", "<p>There is no champion yet.</p>"]
    metrics = ", ".join(f"{escape(name)} {_number(value)}" for name, value in model["metrics"].items())
    parts = ["<h2>The model</h2>", f"<p>Version {model['champion']} was tested with {metrics or 'no metrics'}.</p>"]
    metric = escape(str(model["metric"]))
    for name, told in (("later", "the champion"), ("challenger", "the newest challenger")):
        days = model.get(name) or {"day": [], "loss": []}
        if days["day"]:
            parts.append(
                _line(f"{metric} of {told} by day, on days it has not learned from", days["day"], days["loss"])
            )
    if not (model.get("later") or {"day": []})["day"]:
        parts.append("<p>No training since has judged it on later days, so what it loses there is not known yet.</p>")
    return parts


def _last(finding: Mapping[str, Any]) -> float:
    return next((value for value in reversed(finding["values"]) if value is not None), float("nan"))


def _after(day: str) -> str:
    from datetime import date, timedelta

    return str(date.fromisoformat(day) + timedelta(days=1))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _range(spans: Any) -> str:
    if not spans:
        return "-"
    return ", then ".join(f"{_number(low)} .. {_number(high)}" for low, high in spans)
