"""Inline SVG: nothing is fetched, nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BELOW = 360, 140, 56, 22


def trend(points: Sequence[tuple[int, float]], name: str, marked: set[int]) -> str:
    """Return a line of a metric over versions; champions, past and present, are filled.

    :param points: version and value, in order; at least one.
    :param marked: versions that are or were champion.
    """
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.1 * span, high + 0.1 * span
    step = (_WIDTH - _LEFT - 16) / max(len(points) - 1, 1)

    def place(index: int, value: float) -> tuple[float, float]:
        return _LEFT + 8 + index * step, (_HEIGHT - _BELOW) * (1 - (value - low) / (high - low))

    spots = [(version, value, *place(index, value)) for index, (version, value) in enumerate(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for _, _, x, y in spots)
    every = max(len(points) // 12, 1)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{"champion" if version in marked else "other"}">'
        f"<title>version {version}: {value:.4f}</title></circle>"
        for version, value, x, y in spots
    )
    names = "".join(
        f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{version}</text>'
        for version, _, x, _ in spots[::every]
    )
    scale = "".join(
        f'<text x="{_LEFT - 6}" y="{place(0, value)[1] + 4:.1f}" text-anchor="end">{value:.4f}</text>'
        for value in sorted({min(v for _, v in points), max(v for _, v in points)})
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)} by version">'
        f'<polyline points="{line}"/>{dots}{names}{scale}</svg>'
    )
