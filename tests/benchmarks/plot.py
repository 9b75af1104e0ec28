"""Bars as SVG, one picture for each group of rows."""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from .results import Results, shown

_COLOURS: Final = ("#1f6f8b", "#7fb7be", "#999999", "#d3a625", "#c0704a", "#6a8d4f", "#444444")
_LEFT, _WIDTH, _BAR, _GAP, _TITLE = 230, 560, 14, 12, 34


def bars(results: Results, title: str, rows: Sequence[str]) -> str:
    """Draw some rows: for each a group of bars, the longest of the group as long as can be.

    Args:
        results: The figures; rows without any are left out.
        title: What is above.
        rows: Their names.
    """
    names = list(dict.fromkeys(name for row in rows for name in results.rows.get(row, {})))
    parts: list[str] = []
    y = _TITLE
    for row in rows:
        cells = [(name, results.median(row, name)) for name in names if results.median(row, name)]
        if not cells:
            continue
        most = max(value or 0 for _, value in cells)
        middle = y + (_BAR * len(cells)) / 2 + 4
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(row)}</text>'
        )
        for name, value in cells:
            width = (value or 0) / most * (_WIDTH - 130)
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            label = escape(f"{name}, {shown(row, value)}")
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{max(width, 1):.1f}" height="{_BAR - 2}" '
                f'fill="{colour}"/><text x="{_LEFT + width + 5:.1f}" y="{y + _BAR - 4}" '
                f'class="label">{label}</text>'
            )
            y += _BAR
        y += _GAP
    width = _LEFT + _WIDTH + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
        f'viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="12">'
        "<style>.label{font-size:10px;fill:#333}</style>"
        f'<rect width="{width}" height="{y}" fill="white"/>'
        f'<text x="8" y="20" font-size="15" font-weight="bold">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )
