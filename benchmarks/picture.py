"""Bars as SVG, by hand: a plotting library would be the largest thing in the benchmarks."""

from __future__ import annotations

from xml.sax.saxutils import escape

__all__ = ["bars"]

_COLOURS = ("#1b6ca8", "#7fb2d9", "#9aa5b1", "#c8553d", "#e0a458", "#5a8f69", "#7b5ea7")
_WIDTH, _LEFT, _BAR, _GAP, _TOP = 760, 130, 16, 14, 64
_MOST = _WIDTH - _LEFT - 90


def bars(title: str, groups: dict[str, dict[str, float]], unit: str = "") -> str:
    """Horizontal bars: groups one below the other, one bar for each name, told by its colour."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((value for group in groups.values() for value in group.values()), default=1) or 1
    parts, top = _legend(names), _TOP
    for group, values in groups.items():
        middle = top + _BAR * len(values) / 2 + 4
        parts.append(_text(_LEFT - 10, middle, group, anchor="end"))
        for name, value in values.items():
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            length = max(1.0, _MOST * value / most)
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR - 3}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(_LEFT + length + 6, top + _BAR - 5, f"{value:,.4g}{unit}"))
            top += _BAR
        top += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>'
        f"{_text(12, 22, title, weight='bold')}{''.join(parts)}</svg>\n"
    )


def _legend(names: list[str]) -> list[str]:
    parts, left = [], 12.0
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{left}" y="34" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(left + 16, 44, name))
        left += 34 + 6.6 * len(name)
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#222222">{escape(text)}</text>'
    )
