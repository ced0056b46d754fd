"""The evidence of a promotion as one page: decision, checks, plots; inline SVG, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from adin.promotion.metrics import ROWS, Array
from adin.promotion.statistics import by_day

_WIDTH, _HEIGHT, _PAD = 720, 220, 44
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;border-bottom:1px solid #d7dce2;text-align:left}
.no{color:#b3261e;font-weight:600}.yes{color:#1a7f37}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e6e9ec}td,th{border-color:#3a4047}text{fill:#e6e9ec}}
"""


def page(model: str, told: Mapping[str, Any], columns: Mapping[str, Array]) -> str:
    """Return the page.

    :param told: ``evaluation.json``: outcome, reason, the version compared with, and the evidence of the gate.
    :param columns: per row ``day``, ``label``, ``challenger`` and, if there was one, ``champion``.
    """
    evidence = told["evidence"]
    against = "no champion" if told["against"] is None else f"version {told['against']}"
    parts = [
        f"<h1>{escape(model)}: {escape(told['outcome'])}</h1>",
        f"<p>{escape(told['reason'])}. Compared with {against} on {evidence['rows']:,} rows of {evidence['days']} "
        f"days, which neither had seen. Policy {evidence['policy_version']}, {evidence['policy_hash'][:12]}.</p>",
        _checks(evidence["checks"]),
        _drift(told.get("drift")),
        _metrics(evidence["metrics"]),
    ]
    if told["outcome"] != "invalid":
        parts += _plots(evidence, columns)
    return document(f"{model}: evidence", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Return a page of parts that are HTML already."""
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>{body}</html>\n'
    )


def _plots(evidence: Mapping[str, Any], columns: Mapping[str, Array]) -> list[str]:
    parts: list[str] = []
    primary = evidence["policy"]["primary"]
    if "champion" in columns:
        parts += _section(f"Gain of {primary} by day", _gain_plot(primary, columns, evidence))
    if evidence.get("guardrails"):
        parts += _section("Guardrails: how much worse, and the margin", _rail_plot(evidence))
    if len(columns["label"]) >= 10:
        shares = set(np.unique(columns["label"])) <= {0.0, 1.0}
        title = "Predicted and seen share" if shares else "Predicted and seen, means of ten groups"
        parts += _section(title, _calibration_plot(columns, (0.0, 1.0) if shares else _range(columns)))
    return parts


def _section(title: str, plot: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", plot]


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td class="{"yes" if check["ok"] else "no"}">{"holds" if check["ok"] else "broken"}</td>'
        f"<td>{escape(check['name'])}</td><td>{escape(check['detail'])}</td></tr>"
        for check in checks
    )
    return f"<table><tr><th></th><th>check</th><th>found</th></tr>{rows}</table>"


def _drift(found: Mapping[str, Any] | None) -> str:
    """Return what drift the data had when the models were compared, if it was looked for."""
    if found is None:
        return ""
    alarms = ", ".join(f"{subject} ({kind})" for kind, subject, _ in found["alarms"]) or "none"
    return f"<p>Drift alarms of data before {escape(found['until'])}: {escape(alarms)}.</p>"


def _metrics(values: Mapping[str, Mapping[str, float | None]]) -> str:
    names = list(dict.fromkeys(name for metrics in values.values() for name in metrics))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(who)}</td>" + "".join(f"<td>{_number(metrics.get(name))}</td>" for name in names) + "</tr>"
        for who, metrics in values.items()
    )
    return f"<h2>Metrics</h2><table><tr><th></th>{head}</tr>{rows}</table>"


def _gain_plot(primary: str, columns: Mapping[str, Array], evidence: Mapping[str, Any]) -> str:
    rows = ROWS[primary]
    label = columns["label"]
    sums = by_day(rows(label, columns["champion"]), rows(label, columns["challenger"]), columns["day"])
    gains = (sums[:, 0] - sums[:, 1]) / sums[:, 2]
    days = np.unique(np.asarray(columns["day"]))
    low, high = evidence["interval"]
    at = _scale([*gains.tolist(), low, high, 0.0])
    step = (_WIDTH - 2 * _PAD) / len(gains)
    bars = "".join(
        f'<rect x="{_PAD + n * step:.1f}" width="{max(step - 1, 0.5):.1f}" y="{min(at(gain), at(0)):.1f}" '
        f'height="{abs(at(gain) - at(0)):.1f}" fill="{"#1a7f37" if gain >= 0 else "#b3261e"}">'
        f"<title>{escape(str(day))}: {gain:.4f}</title></rect>"
        for n, (day, gain) in enumerate(zip(days, gains, strict=True))
    )
    band = (
        f'<rect x="{_PAD}" width="{_WIDTH - 2 * _PAD}" y="{at(high):.1f}" height="{at(low) - at(high):.1f}" '
        f'fill="#0969da" opacity=".18"><title>interval of the mean: {low:.4f} .. {high:.4f}</title></rect>'
    )
    return svg(f"{band}{bars}{_axis(at, [low, 0.0, high])}", f"gain by day, interval {low:.4f} to {high:.4f}")


def _rail_plot(evidence: Mapping[str, Any]) -> str:
    margins = {
        (rail["metric"], tuple(rail["slices"])): rail["no_worse_than"] for rail in evidence["policy"]["guardrails"]
    }
    rails = [rail for rail in evidence["guardrails"] if rail["worse_by"] is not None]
    if not rails:
        return "<p>None is defined on these rows.</p>"
    largest = max([abs(rail["worse_by"]) for rail in rails] + list(margins.values())) or 1.0
    middle, half, line = _WIDTH * 0.6, _WIDTH * 0.36, 18
    marks = "".join(
        f'<text x="4" y="{line * (n + 1)}">{escape(rail["name"])}</text>'
        f'<circle cx="{middle + half * rail["worse_by"] / largest:.1f}" cy="{line * (n + 1) - 4}" r="4" '
        f'fill="{"#b3261e" if rail["worse_by"] > 0 else "#1a7f37"}">'
        f"<title>worse by {rail['worse_by']:.4g}, p {rail['p']:.3g}</title></circle>"
        for n, rail in enumerate(rails)
    )
    height = line * (len(rails) + 2)
    limits = "".join(
        f'<line x1="{middle + half * margin / largest:.1f}" x2="{middle + half * margin / largest:.1f}" y1="4" '
        f'y2="{height - line}" stroke="#b3261e" stroke-dasharray="3"><title>margin {margin:g}</title></line>'
        for margin in sorted(set(margins.values()))
    )
    zero = f'<line x1="{middle}" x2="{middle}" y1="4" y2="{height - line}" stroke="#57606a"/>'
    ends = f'<text x="{middle}" y="{height - 4}" text-anchor="middle">better &#8592; 0 &#8594; worse</text>'
    return svg(f"{zero}{limits}{marks}{ends}", "guardrails", height)


def _calibration_plot(columns: Mapping[str, Array], limits: tuple[float, float]) -> str:
    marks = ""
    side = _HEIGHT - 2 * _PAD
    low, high = limits
    for who, colour in (("champion", "#57606a"), ("challenger", "#0969da")):
        if who not in columns:
            continue
        groups = np.array_split(np.argsort(columns[who], kind="stable"), 10)
        points = [(float(np.mean(columns[who][g])), float(np.mean(columns["label"][g]))) for g in groups]
        shares = [((x - low) / (high - low), (y - low) / (high - low)) for x, y in points]
        placed = [(_PAD + x * side * 3, _HEIGHT - _PAD - y * side) for x, y in shares]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        marks += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        marks += f'<text x="{placed[-1][0] + 4:.1f}" y="{placed[-1][1]:.1f}" fill="{colour}">{who}</text>'
    right = (
        f'<line x1="{_PAD}" y1="{_HEIGHT - _PAD}" x2="{_PAD + side * 3}" y2="{_PAD}" stroke="#57606a" '
        'stroke-dasharray="3"/>'
    )
    ends = (
        f'<text x="{_PAD}" y="{_HEIGHT - 8}">predicted {low:.3g}</text>'
        f'<text x="{_PAD + side * 3}" y="{_HEIGHT - 8}">{high:.3g}</text>'
    )
    return svg(right + marks + ends, "predicted and seen in ten groups")


def _range(columns: Mapping[str, Array]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(columns[who], float) for who in ("label", "challenger")])
    low, high = float(np.min(values)), float(np.max(values))
    return low, high if high > low else low + 1


def _scale(values: Sequence[float]) -> Any:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return lambda value: _PAD / 2 + (high - value) / span * (_HEIGHT - _PAD)


def _axis(at: Any, values: Sequence[float]) -> str:
    texts = "".join(f'<text x="0" y="{at(value) + 4:.1f}">{value:.4f}</text>' for value in values)
    return f'{texts}<line x1="{_PAD}" x2="{_WIDTH - _PAD}" y1="{at(0):.1f}" y2="{at(0):.1f}" stroke="#57606a"/>'


def svg(content: str, title: str, height: float = _HEIGHT) -> str:
    """Return a drawing; its title is for who cannot see it."""
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{content}</svg>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
